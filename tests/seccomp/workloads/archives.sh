# Archives of each kind that the image knows.
mkdir d
for i in 1 2 3
do head -c 10000 /dev/urandom > d/$i
done
tar czf a.tgz d
tar xzf a.tgz
tar cf - d | tar xf - -C /tmp
tar cJf a.txz d 2>&1
python3 -c "import shutil
shutil.make_archive(\"a\",\"zip\",\"d\")"
unzip -o a.zip -d u
unzip -l a.zip
unzip -t a.zip
gzip -k d/1
gunzip -f d/1.gz
zcat a.tgz | wc -c
bzip2 -k d/2
xz -k d/3
zipinfo a.zip
file a.zip a.tgz d/1 /bin/ls
ar t x
cpio --help
funzip < a.zip | wc -c
