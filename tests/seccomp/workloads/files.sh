# What people do with files and processes in a shell.
cat a.txt
ls -laR / >/dev/null 2>&1
find / -xdev -name x 2>/dev/null | head
ln a.txt b.txt
ln -s a.txt c.txt
mkfifo f
cp -a a.txt d.txt
mv d.txt e.txt
touch -d yesterday e.txt
chmod 600 e.txt
dd if=/dev/zero of=z bs=1M count=2
truncate -s 5M z
fallocate -l 1M y
sync
df
du -s .
stat a.txt
rm -rf z y f
tail -n1 a.txt
sort a.txt | uniq -c | wc
sed -i s/one/1/ a.txt
grep -r 1 .
xargs -P4 -n1 echo < a.txt
timeout 1 sleep 0.1
nice -n 5 true
setsid true
nohup true
id
whoami
hostname
uname -a
date
ps aux 2>&1 | head -3
kill -0 $$
sleep 0.3 & wait
ulimit -a
umask
env
mktemp
head -c 10 /dev/urandom | od
split -l1 a.txt
diff a.txt e.txt
tee t < a.txt
md5sum a.txt
base64 a.txt
flock /tmp/l true
script -qc true /dev/null
stty -a
tty
nproc
free
uptime
lscpu
realpath a.txt
install -m 644 a.txt k
comm a.txt e.txt
join a.txt e.txt
shuf a.txt
cksum a.txt
getent passwd root
locale
ionice true
chrt -p $$
taskset -p $$
prlimit
time true
trap : USR1
kill -USR1 $$
coproc cat
exec 5<>/dev/null
mapfile -t x < a.txt
test -w a.txt
getopt a
column a.txt
vmstat
pgrep bash
pkill -0 bash
setfattr -n user.a -v b a.txt
getfattr a.txt
getfacl a.txt
chattr -i a.txt
lsattr a.txt
