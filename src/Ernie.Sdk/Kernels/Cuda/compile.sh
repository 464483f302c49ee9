#!/usr/bin/env bash
# Compiles the kernels to ptx/NAME.TARGET.ptx.gz, with Debian's clang-19 and nothing else (apt-get install clang-19). Run it after every change of a kernel: a test compares the hashes.
# compile.sh [FOLDER [SOURCES]] writes to another folder, and compiles other files in the same way. PTXAS=/path/to/ptxas also assembles them and prints registers and spills; no toolkit is needed otherwise.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/ptx}
sources=${2:-$here}
mkdir -p "$out"
# The lowest PTX versions that know the targets, so that old drivers read them: 7.0 for sm_80 (450), 8.0 for sm_90a (525).
for target in sm_80:70 sm_90a:80; do
    arch=${target%%:*}
    for source in "$sources"/*.cu; do
        name=$(basename "$source" .cu)
        hash=$(cat "$here/device.cuh" "$source" | sha256sum | cut -d ' ' -f 1)
        file=$out/$name.$arch.ptx
        {
            echo "// source sha256: $hash"
            clang-19 -x cuda --cuda-device-only -nocudainc -nocudalib --cuda-gpu-arch="$arch" -Xclang -target-feature -Xclang "+ptx${target##*:}" \
                -std=c++17 -O3 -fno-unroll-loops -ffp-contract=off -fno-exceptions -fno-rtti -Wall -Wextra -Werror -include "$here/device.cuh" -S "$source" -o - \
                | sed -E -e 's/[ \t]*\/\/.*$//' -e 's/^[ \t]+//' -e 's/[ \t]+/ /g' -e 's/, /,/g' -e '/^$/d'
        } > "$file"
        if [[ -n ${PTXAS:-} ]]; then echo "$name $arch"; "$PTXAS" -v -arch="$arch" "$file" -o /dev/null; fi
        gzip -9 -n -f "$file"
    done
done
