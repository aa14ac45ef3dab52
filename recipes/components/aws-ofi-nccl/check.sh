# The checks net-plugin, net-choice and net-transport show that it works; here, that NCCL's name for it is there.
test -s /usr/local/lib/libnccl-net.so
