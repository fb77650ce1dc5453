# Search, and programs that are looked for and mostly are not there.
# A pipe that the others left would hold a search for ever.
find . -type p -delete
exec </dev/null
rg roses /usr/share/doc | head
rg -j4 -z x .
grep -rn roses .
jq . <<< "{\"a\":[1,2]}"
awk "{print}" a.txt
perl -e "print 1; open(F,q(<),q(/etc/passwd)); print <F>; system(q(true)); use IO::Socket; use Socket; use POSIX; use Time::HiRes; use Fcntl; fork; wait"
sh -c "echo x"
dash -c "read x" < a.txt
less a.txt | cat
more a.txt | cat
openssl version 2>&1
awk "BEGIN{system(\"true\"); while((\"ls\"|getline)>0);}"
make --version
gcc --version
vi --version
nano --version
curl --version
wget --version
ssh -V
