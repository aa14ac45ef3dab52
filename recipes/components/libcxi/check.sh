# Without the NIC only this can be seen: the library is found, and the tool starts and says that there is no device.
case "$(cxi_stat -h 2>&1)" in *cxi*) ;; *) exit 1 ;; esac
