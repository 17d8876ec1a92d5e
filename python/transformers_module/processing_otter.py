# SPDX-License-Identifier: MIT OR Apache-2.0
"""Text and pictures -> `input_ids`, `attention_mask`, `vision_x`, as Otter was trained.

Pictures are resized and cropped with Pillow, whose bicubic filter is what the checkpoints have seen; tensor libraries
round differently.
"""

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, ProcessorMixin

CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


class OtterProcessor(ProcessorMixin):
    """Tokenizer and picture preprocessing of an Otter.

    `prompt_prefix` are the ids in front of every prompt, as the checkpoint was tuned with; None leaves them to the
    tokenizer. `alpha` says what is shown where a picture is transparent: "drop" the colors hidden there, or "white" or
    "black". `gray16` says what becomes of gray of 16 bits: "clip" makes values above 255 white, "scale" keeps the tones.
    """

    def __init__(self, tokenizer, image_size=224, prompt_prefix=None, alpha="drop", gray16="clip"):
        super().__init__(tokenizer)
        if alpha not in ("drop", "white", "black"):
            raise ValueError(f"alpha is {alpha!r}; it must be 'drop', 'white' or 'black'")
        if gray16 not in ("clip", "scale"):
            raise ValueError(f"gray16 is {gray16!r}; it must be 'clip' or 'scale'")
        self.image_size = image_size
        self.prompt_prefix = prompt_prefix
        self.alpha = alpha
        self.gray16 = gray16

    def encode(self, texts, padding_side, **kwargs):
        """Ids and attention mask (B, L) of texts, padded to the longest."""
        own = self.prompt_prefix is None
        rows = self.tokenizer(texts, add_special_tokens=own, **kwargs)["input_ids"]
        rows = {"input_ids": [[*(self.prompt_prefix or []), *row] for row in rows]}
        return self.tokenizer.pad(rows, padding=True, padding_side=padding_side, return_tensors="pt")

    def rgb(self, picture):
        """A picture in 8-bit RGB, as the model was trained to see it."""
        if self.gray16 == "scale" and (picture.mode == "I" or picture.mode.startswith("I;16")):
            levels = np.asarray(picture).astype(np.int64) >> 8
            picture = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
        if self.alpha != "drop" and (picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info):
            picture = picture.convert("RGBA")
            ground = Image.new("RGB", picture.size, self.alpha)
            ground.paste(picture, mask=picture.getchannel("A"))
            return ground
        return picture.convert("RGB")

    def pixels(self, picture):
        """One picture (path, PIL image or uint8 array) as (3, S, S): short side to S, center crop, CLIP's scale."""
        if isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture)
        elif not isinstance(picture, Image.Image):
            picture = Image.open(picture)
        side, (width, height) = self.image_size, picture.size
        short = min(width, height)
        size = (side * width // short, side * height // short)
        picture = self.rgb(picture).resize(size, Image.Resampling.BICUBIC)
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        picture = np.asarray(picture.crop((left, top, left + side, top + side)), dtype=np.float32)
        picture = (picture * np.float32(1 / 255) - CLIP_MEAN) / CLIP_STD
        return torch.from_numpy(picture.transpose(2, 0, 1).copy())

    def __call__(self, text, images=None, padding_side="left", **kwargs):
        """Inputs of the model for one prompt or a batch.

        For a prompt `text`, `images` is a list with one item for each `<image>` in it; an item is a picture, or a list
        of pictures, the frames of one video. For a list of prompts it is a list of such lists. Prompts with fewer items
        than others get black ones, which nothing attends to.
        """
        single = isinstance(text, str)
        texts = [text] if single else list(text)
        images = ([images] if single else images) or [None] * len(texts)
        if len(images) != len(texts):
            raise ValueError(f"{len(texts)} prompts, but {len(images)} lists of images")
        media = [[item if isinstance(item, (list, tuple)) else [item] for item in row or []] for row in images]
        for number, (prompt, row) in enumerate(zip(texts, media)):
            if prompt.count("<image>") != len(row):
                raise ValueError(f"prompt {number} has {prompt.count('<image>')} <image>, but {len(row)} were given")
        tokens = self.encode(texts, padding_side, **kwargs)
        data = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
        frames = {len(item) for row in media for item in row}
        if len(frames) > 1:
            raise ValueError(f"all media of a batch need the same number of frames, but they have {sorted(frames)}")
        if frames:
            vision_x = torch.zeros(len(texts), max(map(len, media)), *frames, 3, self.image_size, self.image_size)
            for b, row in enumerate(media):
                for t, item in enumerate(row):
                    vision_x[b, t] = torch.stack([self.pixels(picture) for picture in item])
            data["vision_x"] = vision_x
        return BatchFeature(data)

    def decode(self, ids, **kwargs):
        return self.tokenizer.decode(ids, **kwargs)

    def batch_decode(self, ids, **kwargs):
        return self.tokenizer.batch_decode(ids, **kwargs)
