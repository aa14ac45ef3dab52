# The header that libfabric's provider looks for.
test -s /usr/local/include/cxi_prov_hw.h
test -s /usr/local/share/cassini-headers/csr_defs.json
