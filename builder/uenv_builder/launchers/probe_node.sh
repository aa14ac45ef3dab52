#!/bin/sh
# Prints what this node says of its GPUs and NICs, a line each: "uenv-node HOST WHAT VALUES". It changes nothing, runs on the host
# and not in an image, and always ends well. UENV_PROBE_ROOT is the folder that sysfs is looked up below, UENV_PROBE_SECONDS how
# long nvidia-smi may take; both are for tests.
root=${UENV_PROBE_ROOT-}
host=${SLURMD_NODENAME:-$(uname -n)}

# say WHAT: each line of standard input as WHAT.
say() {
    while IFS= read -r line; do
        printf 'uenv-node %s %s %s\n' "$host" "$1" "$line"
    done
}

# ask WHAT FIELDS: nvidia-smi's answer for each GPU as WHAT; fails, and says nothing, where it does not know a field. With a GPU that
# is lost it may hang.
ask() {
    answer=$(timeout -k 2 "${UENV_PROBE_SECONDS-15}" nvidia-smi --query-gpu="$2" --format=csv,noheader,nounits 2>&1)
    case $? in
    0) printf '%s\n' "$answer" | say "$1" ;;
    124 | 137) answer="nvidia-smi did not answer in ${UENV_PROBE_SECONDS-15} s" && return 1 ;;
    *) return 1 ;;
    esac
}

if ! command -v nvidia-smi >/dev/null; then
    echo "no nvidia-smi on this node" | say trouble
elif ask gpu index,name,driver_version,temperature.gpu,clocks.sm,clocks.max.sm,ecc.errors.uncorrected.volatile.total; then
    # The field has two names: a newer and an older one.
    ask events index,clocks_event_reasons.active || ask events index,clocks_throttle_reasons.active
    ask margin index,temperature.gpu.tlimit
else
    printf '%s\n' "$answer" | head -n 1 | say trouble
fi
for nic in "$root"/sys/class/net/hsn[0-9]*; do
    [ -d "$nic" ] || continue
    printf '%s %s\n' "${nic##*/}" "$(cat "$nic/operstate" 2>/dev/null)" | say nic
done
echo | say end
exit 0
