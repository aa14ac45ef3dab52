# The library is one of the loader's; without the host's kernel module there is nothing to ask of it.
test -s /usr/local/include/xpmem.h
ldconfig -p 2>/dev/null | grep -q 'libxpmem\.so\.0 ' || test -e /usr/local/lib/libxpmem.so.0
