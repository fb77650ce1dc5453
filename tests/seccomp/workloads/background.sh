# Jobs in the background, signals, pipes.
sleep 30 & disown
(while :
do :
done) & p=$!
sleep 0.2
kill -STOP $p
kill -CONT $p
kill -9 $p
wait
yes | head -c 3000000 > /dev/null
for i in 1 2 3
do (sleep 0.1) & done
wait
bash -ic "jobs
fg
history" 2>&1
exec 3<>/dev/tcp/127.0.0.1/1
