# Compiles with the image's own compiler, then becomes the program: FOLDER PROGRAM COUNT OPTIONS... ARGUMENTS...
# Each of the COUNT words OPTIONS is what one call of the compiler gets.
folder=$1 program=$2 count=$3
shift 3
compiler=$(command -v gcc || command -v cc) || exit 96
mkdir -p "$folder"
while [ "$count" -gt 0 ]; do
    # shellcheck disable=SC2086  # the options are words without spaces
    "$compiler" $1 >&2 || exit 97
    shift
    count=$((count - 1))
done
exec "$folder/$program" "$@"
