# libfabric opens it by this name; without the host's kernel module there is nothing to ask of it.
test -s /usr/local/include/gdrapi.h
test -e /usr/local/lib/libgdrapi.so.2
