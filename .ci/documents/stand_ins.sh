#!/usr/bin/env bash
# Makes small files under the names that documents use, in the current folder. `otter`, `otter-dev` and ffmpeg are on PATH.
#
#   .ci/documents/stand_ins.sh ROOT
set -euo pipefail
root=$1
golden=$root/tests/golden

# The repository as commands see it: recipes and the base may be written to, the rest is looked at.
for name in Cargo.toml crates tools bench cuda python fuzz tests target; do ln -s "$root/$name" "$name"; done
cp -r "$root/recipes" "$root/assets" .

# Models.
for name in DIR OTTER OTTER-Image-MPT7B models/otter mirror/luodian/OTTER-Image-MPT7B mirror/org/name; do
    mkdir -p "$(dirname "$name")"
    cp -r "$golden/llama/checkpoint" "$name"
done
cp -r "$golden/openflamingo/v2-mpt/converted" BASE
cp "$golden"/openflamingo/v2-mpt/base_lm/*token* BASE
for name in models/OTTER-MPT7B-Init mirror/luodian/OTTER-MPT7B-Init; do cp -r assets/toybox-base "$name"; done
for name in mpt-7b mpt-7b-instruct; do cp -r "$golden/openflamingo/v2-mpt/base_lm" $name; done
for name in llama-2-7b llama-7b vicuna-delta vicuna-7b-delta; do cp -r "$golden/openflamingo/v1-llama/base_lm" $name; done
for name in CLIP clip-vit-large-patch14; do cp -r "$golden/openflamingo/v2-mpt/base_clip" $name; done
cp "$golden/openflamingo/v2-mpt/checkpoint_0.pt" checkpoint.pt
cp checkpoint.pt final_weights.pt
cp "$golden/openflamingo/v2-mpt/checkpoint.pt" checkpoint_steps_2000.pt
cp "$golden/llama/forward.safetensors" "$golden/llama/grads.safetensors" .
cp -r "$golden/video/checkpoint" VIDEO
cp -r "$root/crates/otter-mimicit/tests/fixtures/bert" all-MiniLM-L6-v2
otter convert DIR --out my-otter --transformers
otter convert DIR --out model.gguf --format gguf
otter convert DIR --out LORA
# One adapter, with the names that PEFT gives.
python3 - <<'PYTHON'
import json, struct
with open("LORA/model.safetensors", "rb") as file:
    header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    body = file.read()
renamed = {name.replace("lang_encoder.", "lang_encoder.base_model.model.", 1): entry for name, entry in header.items()}
module = "lang_encoder.base_model.model.model.layers.1.decoder_layer.self_attn.v_proj"
for part, shape in (("lora_A", [3, 64]), ("lora_B", [64, 3])):
    renamed[f"{module}.{part}.default.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + 768]}
    body += struct.pack("<192f", *(at % 7 / 50 for at in range(192)))
header = json.dumps(renamed).encode()
with open("LORA/model.safetensors", "wb") as file:
    file.write(struct.pack("<Q", len(header)) + header + body)
with open("LORA/config.json") as file:
    config = json.load(file) | {"lora_config": {"r": 3, "lora_alpha": 6.0, "lora_dropout": 0.05}}
with open("LORA/config.json", "w") as file:
    json.dump(config, file)
PYTHON

# A mirror that says which revision it holds.
otter pull luodian/OTTER-Image-MPT7B --out pulled
sed 's/"revision": *"[^"]*"/"revision": "v1.0"/' pulled/otter-pull.json >mirror/luodian/OTTER-Image-MPT7B/otter-pull.json

# Pictures and videos.
for name in cat.jpg a.png b.png photo.jpg boat.png; do cp "$golden/images/photo.jpg" "$name"; done
for name in photos/{a,b} frames/{1,1_2} resized_images/{1,1_2} mmc4/images/{a,b} coco/train2017/000000033471; do
    mkdir -p "$(dirname "$name")"
    cp "$golden/images/photo.jpg" "$name.jpg"
done
mkdir -p frames/castle_frames/castle_s01e01_seg02_clip_00 clips videos v2
cp photo.jpg frames/castle_frames/castle_s01e01_seg02_clip_00/00001.jpg
for name in clip.mp4 clips/c.mp4 videos/v_1.mp4 v2/x.mp4; do
    ffmpeg -v error -f lavfi -i testsrc=duration=4:size=64x48:rate=8 "$name"
done

# Annotations.
cat >table.csv <<'CSV'
image,instruction,answer
a.jpg,How many cups?,"Two, or three."
b.jpg,Which is red?,The left one.
a.jpg,How many plates?,One.
CSV
echo '{"video": "c.mp4", "instruction": "What happens?", "answer": "A bar moves."}' >table.jsonl
echo '[{"id": "000000033471", "image": "000000033471.jpg", "conversations": [
  {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A boat."}]}]' >conversation_58k.json
echo '[{"img_id": "1", "sentences": ["the boat is gone"]}]' >sd.json
echo '{"vid_name": "castle_s01e01_seg02_clip_00", "descs": [{"desc": "They talk."}]}' >tvc_train.jsonl
echo '{"x": {"clips": [{"narrations": [{"time": 1.2, "text": "#C C picks up a cup"}]}]}}' >narrations.json
echo '[{"id": "x_clip000000", "results": "Question: What is picked up?\nAnswer: A cup."}]' >replies.json
echo '{"v_1": {"duration": 4, "timestamps": [[0, 2], [2, 4]], "sentences": ["It begins.", "It ends."]}}' >dc_annotations.json

# Documents and captions, of which everything is written.
document='{"text_list": ["My garden.", "The roses bloom."], "image_info": [{"image_name": "a.jpg", "matched_text_index": 1,
  "matched_sim": 0.33}, {"image_name": "b.jpg", "matched_text_index": 0, "matched_sim": 0.4}], "similarity_matrix": [[0.21, 0.33], [0.4, 0.1]]}'
for number in 0 1 2 3 4 5 6 7 8 9; do
    tr -d '\n' <<<"$document" | tee mmc4/docs_$number.jsonl >mmc4/docs_shard_${number}_v2.jsonl
done
picture=$(base64 -w0 photo.jpg)
for number in 1 2 3; do
    printf '%s\t%s\n' $number "$picture" >>laion_images.tsv
    printf '%s\t{"captions": ["A boat."]}\n' $number >>laion_texts.tsv
done

otter data shards --caption-images laion_images.tsv --caption-texts laion_texts.tsv --out data/laion

# Data sets.
otter toybox --out data/toybox --scale 0.02
otter-dev synthesize --pairs 60 --images 20 --out syn
otter-dev synthesize --pairs 60 --images 20 --to json --out made
list() {
    # A list of one set: FILE GROUP NAME INSTRUCTIONS IMAGES
    printf '%s:\n  %s:\n    mimicit_path: %s\n    images_path: %s\n    num_samples: -1\n' "$2" "$3" "$4" "$5" >"$1"
}
list syn.yaml IMAGE_TEXT SYN made/SYN_instructions.json made/SYN.json
cp syn.yaml train.yaml
list data/train.yaml IMAGE_TEXT SYN ../made/SYN_instructions.json ../made/SYN.json
sed 's|train/|toybox/train/|' data/toybox/train.yaml >data/instructions.yaml
cp -r syn SET
cp -r syn data/DC
cp -r syn data/LADD
otter data convert made/SYN_instructions.json --images made/SYN.json --group IMAGE_TEXT --to parquet --out parquet
for name in LA DC; do cp -r parquet/SYN.parquet $name.parquet; done
for name in LACR LADD DC SD; do cp made/SYN_instructions.json ${name}_instructions.json; done
for name in LADD SD few; do cp made/SYN_train.json ${name}_train.json; done
mv few_train.json few.json
# A matrix (60, 4) of 32-bit floats with the ids of its rows.
python3 - <<'PYTHON'
import json, struct
ids = sorted({image for record in json.load(open("made/SYN_instructions.json"))["data"].values() for image in record["image_ids"]})
header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({len(ids)}, 4), }}".ljust(117) + "\n"
values = [1 + (row * 7 + column) % 5 for row in range(len(ids)) for column in range(4)]
with open("vectors.npy", "wb") as file:
    file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + struct.pack(f"<{len(values)}f", *values))
with open("ids.txt", "w") as file:
    file.write("\n".join(ids) + "\n")
PYTHON

# Runs: as long as recipes say, but for the sizes.
sed -i -e 's/^steps = .*/steps = 4/' -e 's/^batch_size = .*/batch_size = 2/' -e 's/^\(eval\|checkpoint\)_every = .*/\1_every = 2/' \
    -e 's/^log_every = .*/log_every = 1/' -e 's/^max_batches = .*/max_batches = 1/' -e 's/^warmup_steps = .*/warmup_steps = 1/' \
    -e 's/^epochs = .*/steps = 4/' -e 's/^gradient_accumulation = .*/gradient_accumulation = 2/' -e 's/^image_size = 224/image_size = 32/' -e 's|/{00000..00041}.tar||' recipes/*.toml
sed -i 's/^image_size = 32/image_size = 28/' recipes/pretrain.toml
cp recipes/toybox.toml my.toml
cp recipes/one-24gb.toml big.toml
sed -i 's|"\.\./|"|' my.toml big.toml
mkdir -p runs
