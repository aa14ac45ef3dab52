# The header that libcxi and libfabric's provider are compiled with.
test -s /usr/local/include/uapi/misc/cxi.h
