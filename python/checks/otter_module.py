# SPDX-License-Identifier: MIT OR Apache-2.0
"""A directory that `otter` exported, loaded by Transformers' auto classes, against recordings of the original and
against the `otter` binary.

    otter_module.py GOLDEN_CASE EXPORTED EXPECTED.json RESAVED

EXPECTED.json holds what the binary gave: `prompts` [{prompt, images, frames, token_ids, text}], `batches` (lists of
such) and `scores` [{prompt, images, frames, answer_ids, logprobs}]. The model is saved to RESAVED at the end, for the
binary to read.
"""

import sys
from pathlib import Path

import torch
from common import check, close, finish, golden_weights, read_json
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer


def media(item):
    """Pictures as the processor takes them: one item each, or all of them frames of one item."""
    return [item["images"]] if item["frames"] and item["images"] else item["images"]


def check_recordings(model, recorded, what):
    scenarios = sorted({name.split(".")[0] for name in recorded})
    for scenario in scenarios:
        names = ("lang_x", "attention_mask", "vision_x", "labels")
        ids, mask, pixels, labels = (recorded[f"{scenario}.{name}"] for name in names)
        output = model(input_ids=ids, attention_mask=mask, vision_x=pixels, labels=labels)
        real = mask.bool()
        close(output.logits[real], recorded[f"{scenario}.logits"][real], 2e-4, f"{what}: logits of {scenario}")
        close(output.loss.reshape(1), recorded[f"{scenario}.loss"].reshape(1), 1e-4, f"{what}: loss of {scenario}")
    return len(scenarios)


def answers(model, processor, inputs, **options):
    """New ids of each row, up to and with `<|endofchunk|>`."""
    rows = model.generate(**inputs, do_sample=False, max_new_tokens=20, **options)
    end = model.config.endofchunk_token_id
    cut = []
    for row in rows[:, inputs["input_ids"].shape[1] :].tolist():
        cut.append(row[: row.index(end) + 1] if end in row else row)
    return cut


def check_generation(model, processor, expected, what):
    for prompt in expected["prompts"]:
        inputs = processor(prompt["prompt"], images=media(prompt))
        for options in ({}, {"use_cache": False}):
            found = answers(model, processor, inputs, **options)[0]
            check(found == prompt["token_ids"], f"{what}: {prompt['prompt']!r} {options}: {found}, {prompt['token_ids']}")
        text = processor.decode(found, skip_special_tokens=True).strip()
        check(text == prompt["text"], f"{what}: text {text!r}, the binary gave {prompt['text']!r}")
    for batch in expected["batches"]:
        inputs = processor([item["prompt"] for item in batch], images=[media(item) for item in batch])
        check((inputs["attention_mask"][:, 0] == 0).any(), f"{what}: the batch needs padding on the left")
        found = answers(model, processor, inputs)
        check(found == [item["token_ids"] for item in batch], f"{what}: a batch of {len(batch)}: {found}")


def check_scores(model, processor, expected, what):
    """The binary's logits, through the log-probabilities of given answers."""
    for score in expected["scores"]:
        inputs = processor(score["prompt"], images=media(score))
        answer = torch.tensor([score["answer_ids"]])
        length = inputs["input_ids"].shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        rows = model(**inputs).logits[0, length - 1 : -1].log_softmax(-1)
        found = rows.gather(1, answer[0, :, None])[:, 0].double()
        close(found, torch.tensor(score["logprobs"], dtype=torch.double), 2e-4, f"{what}: scores of {score['prompt']!r}")


def main():
    case, folder, expected, resaved = (Path(argument) for argument in sys.argv[1:5])
    expected, what = read_json(expected), case.name
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    check(type(config).__name__ in ("OtterConfig", "FlamingoConfig"), f"{what}: {type(config).__name__}")
    model, report = AutoModelForImageTextToText.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True
    )
    for kind, names in report.items():
        check(not names, f"{what}: loading: {kind}: {names}")
    weights, found = golden_weights(case / "checkpoint"), model.state_dict()
    check(weights.keys() == found.keys(), f"{what}: names: {sorted(weights.keys() ^ found.keys())[:6]}")
    for name in weights.keys() & found.keys():
        check(torch.equal(weights[name], found[name]), f"{what}: {name} differs after loading")
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    recorded = read_json(case / "generate.json")["prompts"]
    pixels = load_file(case / "generate.safetensors")
    images = case.parent / "images"
    for prompt in recorded:
        rows = [[images / name for name in row] for row in prompt["images"]]
        frames = pixels[f"{prompt['key']}.vision_x"].shape[2] > 1
        inputs = processor(prompt["texts"], images=[[row] if frames else row for row in rows])
        for name in ("input_ids", "attention_mask"):
            check(inputs[name].tolist() == prompt[name], f"{what}: {name} of {prompt['key']}")
        if any(rows):
            close(inputs["vision_x"], pixels[f"{prompt['key']}.vision_x"], 1e-5, f"{what}: pixels of {prompt['key']}")
        if len(prompt["texts"]) == 1:
            ids = tokenizer(prompt["texts"][0]).input_ids
            check(ids == prompt["input_ids"][0], f"{what}: AutoTokenizer: ids of {prompt['key']}")
    with torch.no_grad():
        scenarios = check_recordings(model.eval(), load_file(case / "forward.safetensors"), what)
        check_generation(model, processor, expected, what)
        check_scores(model, processor, expected, what)
    for prompt in recorded:
        if len(prompt["texts"]) == 1:
            item = {"images": [str(images / name) for name in prompt["images"][0]]}
            item["frames"] = pixels[f"{prompt['key']}.vision_x"].shape[2] > 1
            found = answers(model, processor, processor(prompt["texts"][0], images=media(item)))[0]
            row = prompt["greedy_no_cache"][0][len(prompt["input_ids"][0]) :]
            check(found == row[: len(found)], f"{what}: {prompt['key']}: {found}, recorded {row}")
    model.save_pretrained(resaved)
    processor.save_pretrained(resaved)
    again = AutoModelForImageTextToText.from_pretrained(resaved, trust_remote_code=True).state_dict()
    same = all(torch.equal(again[name], tensor) for name, tensor in weights.items())
    check(same, f"{what}: saving and loading changed the weights")
    counts = f"{scenarios} recorded scenarios, {len(expected['prompts'])} prompts, {len(expected['batches'])} batches"
    finish(f"{what} in Transformers, {counts}, {len(expected['scores'])} scores")


main()
