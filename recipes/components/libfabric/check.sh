# Jobs name one provider, and libfabric then hides the others.
unset FI_PROVIDER

# The providers are compiled in; hardware is not needed to list them.
listed=$(fi_info -l)
for provider in cxi tcp shm; do
    printf '%s\n' "$listed" | grep -q "^$provider:" || { echo "fi_info does not list $provider" >&2; exit 1; }
done

# Two processes exchange messages over TCP of the loopback interface, and compare them (-c).
export FI_TCP_IFACE=lo FI_HMEM=system
fi_pingpong -p tcp -e rdm -c -I 5 -S all >/tmp/pingpong.log 2>&1 &
server=$!
attempts=8
while [ "$attempts" -gt 0 ] && kill -0 "$server"; do
    sleep 1
    if fi_pingpong -p tcp -e rdm -c -I 5 -S all 127.0.0.1; then
        wait "$server"
        exit
    fi
    attempts=$((attempts - 1))
done
cat /tmp/pingpong.log >&2
exit 1
