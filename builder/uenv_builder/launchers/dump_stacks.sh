#!/bin/sh
# dump_stacks.sh NAME=VALUE: what every process with this variable in its environment is doing, on this node. Python programs of
# ours answer SIGUSR1 with the stacks of their threads in their own log; py-spy and gdb are used where they are installed. They come
# last, since each may take long and there may be no time for all.
echo "node ${SLURMD_NODENAME:-$(uname -n)}"
found=
for environment in /proc/[0-9]*/environ; do
    folder=${environment%/environ}
    pid=${folder#/proc/}
    [ "$pid" != $$ ] || continue
    tr '\0' '\n' <"$environment" 2>/dev/null | grep -qxF "$1" || continue
    command=$(tr '\0' ' ' <"$folder/cmdline" 2>/dev/null | cut -c1-300)
    # Nor what only waits: our own commands around the job.
    case $command in
    '' | *uenv_builder.cli* | "setpriv "* | "srun "*) continue ;;
    esac
    found="$found $pid"
    echo
    echo "process $pid: $command"
    grep -E '^(State|PPid|Threads):' "$folder/status" 2>/dev/null
    echo "waits in: $(cat "$folder/wchan" 2>/dev/null)"
    cat "$folder/stack" 2>/dev/null
    # Only those that have a handler: the signal would end the others, and srun would pass it on.
    caught=$(sed -n 's/^SigCgt:[[:space:]]*//p' "$folder/status" 2>/dev/null)
    case $(cat "$folder/comm" 2>/dev/null) in
    python* | qemu-*)
        [ "$((0x0${caught#????????????} & 0x200))" -eq 0 ] || kill -USR1 "$pid" 2>/dev/null
        ;;
    esac
done
sleep 1
for pid in $found; do
    case $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null) in
    *python*) command -v py-spy >/dev/null && echo && timeout 20 py-spy dump --pid "$pid" 2>&1 ;;
    esac
    if command -v gdb >/dev/null; then
        echo
        echo "process $pid, threads:"
        timeout 20 gdb -p "$pid" -batch -nx -ex 'thread apply all backtrace 40' 2>&1 | grep -E '^(#|Thread)' | head -n 200
    fi
done
exit 0
