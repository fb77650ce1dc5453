# The library, and its programs.
python3 /tmp/python.py
python3 -m pydoc os > /dev/null
python3 -m unittest -h >/dev/null
python3 -c "import curses
curses.setupterm()"
python3 -X dev -c 1
python3 -m compileall -q /tmp/python.py
python3 -m http.server --help >/dev/null
echo "print(1)" | python3 -i 2>&1
