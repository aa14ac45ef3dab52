# It needs GPUs to do anything; here, that its libraries are found: the loader says so without running it.
for program in all_reduce_perf sendrecv_perf; do
    path=$(command -v "$program") || exit 1
    LD_TRACE_LOADED_OBJECTS=1 "$path" | grep -v libcuda.so.1 | grep 'not found' && exit 1
done
exit 0
