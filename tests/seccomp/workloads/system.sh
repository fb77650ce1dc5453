# What looks at the system, and what must fail.
exec </dev/null
cd /usr/lib/python3*/test 2>/dev/null && python3 -m test --help >/dev/null
python3 -c "import os
[os.path.exists(p) for p in (\"/proc/self/maps\",)]
print(open(\"/proc/self/smaps\").read()[:10], open(\"/proc/cpuinfo\").read()[:10], open(\"/proc/meminfo\").read()[:10])"
cat /proc/self/mountinfo | wc -l
readlink /proc/self/exe
ls /sys/class/net
cat /sys/fs/cgroup/memory.max
apropos ls
man ls 2>&1
dpkg -l | wc -l
apt list 2>/dev/null | wc -l
ldd /bin/ls
ldconfig -p | wc -l
su -c true
sudo true
mount
chroot / true
ping -c1 localhost
ip a
ifconfig
netstat
ss
nc -h
dmesg
strace true
gdb --version
lsof
fuser /
renice 5 $$
cal
bc <<< 1
dc -e 1
printf "%s" x
logger x
wall x
mesg
write x
at now
crontab -l
passwd
chsh
newgrp
chown 0 a.txt
mknod x c 1 3
unshare -r true
setpriv --dump
capsh --print
