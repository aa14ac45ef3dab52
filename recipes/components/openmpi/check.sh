# Two processes on this machine, started by its own launcher, without any network.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 PRTE_MCA_plm_ssh_agent=true HOME="${HOME:-/tmp}"
# Under an emulator there is no /sys to read the processors from.
test -d /sys/devices/system/cpu || export HWLOC_SYNTHETIC="core:2 pu:1" HWLOC_THISSYSTEM=1
ompi_info --parsable | grep -q '^mca:mtl:ofi:' || { echo "Open MPI was built without libfabric" >&2; exit 1; }
# Each process knows that it is one of two.
test "$(mpirun --map-by :oversubscribe -n 2 printenv OMPI_COMM_WORLD_SIZE | tr '\n' ' ')" = "2 2 "
