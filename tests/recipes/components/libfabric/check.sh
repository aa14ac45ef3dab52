set -eu
fi_info --version
fi_info --provider tcp
FI_TCP_IFACE=lo fi_pingpong -p tcp -e rdm -c -I 20 &
server=$!
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    sleep 1
    if FI_TCP_IFACE=lo fi_pingpong -p tcp -e rdm -c -I 20 127.0.0.1; then
        wait $server
        exit 0
    fi
done
echo "the client of fi_pingpong never reached its server"
exit 1
