#!/bin/sh
# Packs the tests of the kernels for a machine with a GPU that has neither Rust nor a network: programs and a script that runs
# them. Here it needs what `cargo build -p otter-cuda --features cuda` needs (cuda/toolkit.sh); there it needs the driver alone.
#
#   cuda/pack_tests.sh            writes target/otter-cuda-tests.tar.gz
#   tar xzf otter-cuda-tests.tar.gz && otter-cuda-tests/run.sh [NUMBER OF THE GPU]
set -eu
cd "$(dirname "$0")/.."
pack=target/otter-cuda-tests
rm -rf "$pack"
mkdir -p "$pack"
cargo test --release --locked -p otter-cuda --features cuda --tests --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' |
    while read -r program; do
        name=$(basename "$program" | sed 's/-[0-9a-f]*$//')
        cp "$program" "$pack/$name"
        strip "$pack/$name" 2>/dev/null || true
    done
cat >"$pack/run.sh" <<'END'
#!/bin/sh
# Runs every test of the kernels on one GPU.
cd "$(dirname "$0")"
export OTTER_TEST_GPU="${1:-0}"
failed=0
for program in ./*; do
    [ "$program" = ./run.sh ] || "$program" --test-threads 1 || failed=1
done
exit $failed
END
chmod +x "$pack/run.sh"
tar czf target/otter-cuda-tests.tar.gz -C target otter-cuda-tests
ls -l target/otter-cuda-tests.tar.gz
