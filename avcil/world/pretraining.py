"""Pre-training of the `mini` encoder: a SAM-Audio in miniature.

Its product is a released model: three priors, of three seeds, stand in prior/ with a card that says how they were made,
and nothing else of the project trains one. ``make prior`` trains them again, into build/prior/, and says whether they
are the released bytes.

Scenes come from *other* worlds (other seeds: no class of the benchmark occurs). In each, two objects with one
timbre sound at once. Three losses:

1. **Visually prompted separation.** The tokens under one object, slot by slot, are the prompt; from the mixture of
   both sounds and another clip's sound the model predicts the share of each time-frequency bin that belongs to the
   prompted object: binary cross-entropy against the ideal ratio mask, weighted by log(1 + 10 |mixture|).
2. **Naming.** Cross-entropy of the tokens under an object against the names of all classes of the pre-training world,
   and of the mean audio token against the names of all timbres: the place that captions have in PE-AV. With ``matching:
   frames`` the name is the frame's: a class scores by the log-sum-exp of its scores over all patches.
3. **Matching**, which is what guidance starts from. Of *patches* (``matching: regions``): for each slot, cross-entropy
   of the audio token against the patches of that slot, the patches under the sounding object being right: the
   renderer's own knowledge of where that is. Or of *frames* (``matching: frames``), where nothing says which patches.

The prompt of separation is an object's region in either case, as a user's click would be. With ``frames`` nothing else
reads regions.

Dimension letters as in avcil/encoders/mini.py; ``O`` = 2 sounding objects.
"""

import argparse
import io
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcil.base.alone import alone
from avcil.base.code import code_of
from avcil.base.files import digest, write_bytes
from avcil.base.processes import each
from avcil.base.progress import progress
from avcil.encoders.mini import Mini
from avcil.encoders.prior import Separator, save_prior
from avcil.params import Params, load
from avcil.params.world import Matching, PriorConfig, World
from avcil.tokens.tokens import frame_audio
from avcil.world.separation import Scenes, prompt_tokens, render_scenes

# an unfinished training of other code is not gone on with
LEARNING = ("encoders/mini.py", "encoders/prior.py", "tokens/tokens.py", "world/*.py")
SAVED_EVERY = 50  # steps: what a kill can cost
STANDARDISED = 200  # scenes from whose tokens an encoder takes mean and spread


class Namer(nn.Module):
    """A direction for each class's look and for each timbre, learnt with the encoder and thrown away after."""

    def __init__(self, channels: int, world: World):
        super().__init__()
        self.looks = nn.Linear(channels, world.classes, bias=False)
        self.sounds = nn.Linear(channels, world.timbres, bias=False)
        # its own, not the encoder's: naming drives it up, and made a shared one too sharp for guidance (LOG.md)
        self.log_scale = nn.Parameter(torch.tensor(2.3))


class PriorLearner(nn.Module):
    """All that is trained together; ``encoder`` and ``separator`` are what is released."""

    def __init__(self, params: Params):
        super().__init__()
        channels, bands = params.encoder.channels, params.encoder.mel_bands
        self.encoder = Mini(params.encoder)
        self.separator = Separator(channels, bands)
        self.namer = Namer(channels, params.prior.world)


class PriorLoss(NamedTuple):
    separation: Tensor
    naming: Tensor
    patches: Tensor  # or frames


def frame_matching(encoder: Mini, visual: Tensor, audio: Tensor, loud: Tensor) -> Tensor:
    r"""To which clip, and to which moment of it, does a sound belong? Nothing says where in the picture it comes from.

    With s_{il,jm} = log Σ_p exp(k cos(u_il, v_jmp)), over patches p of slot m of clip j, for the audio token u_il of
    slot l of clip i and the encoder's scale k: the mean over i and l, weighted by ``loud``, of

        − log softmax_j s_{il,jl} at j = i  − log softmax_m s_{il,im} at m = l.

    visual [B,L,S,D], audio [B,A,D], loud [B,L]; gives a scalar.

    Source: clips told apart by their best patches: EZ-VSL, Mo & Morgado, ECCV 2022, arXiv 2203.09324; moments of one
    clip told apart: Korbar et al., NeurIPS 2018, arXiv 1807.00230.
    Deviation: log-sum-exp over patches where EZ-VSL takes the maximum, so that all patches learn.
    """
    heard, seen = F.normalize(frame_audio(audio, visual.shape[1]), dim=-1), F.normalize(visual, dim=-1)
    scale = encoder.log_scale.exp()
    clips = (scale * torch.einsum("ild,jlpd->iljp", heard, seen)).logsumexp(-1).log_softmax(2)
    moments = (scale * torch.einsum("ild,impd->ilmp", heard, seen)).logsumexp(-1).log_softmax(2)
    # `diagonal` puts its own dimension last: what is right by clip comes as [L,B]
    right = clips.diagonal(dim1=0, dim2=2).T + moments.diagonal(dim1=1, dim2=2)
    return -(right * loud).sum() / loud.sum()


def prior_loss(learner: PriorLearner, scenes: Scenes, matching: Matching = "regions") -> PriorLoss:
    """The three losses of the module docstring on a batch of scenes; the last is of ``matching``."""
    encoder, separator, namer = learner.encoder, learner.separator, learner.namer
    rows = torch.arange(len(scenes.frames))
    visual = encoder.visual(scenes.frames)
    # alternate which of the two objects is prompted, so that both are seen as target and as interference
    target = rows % 2
    waveforms = scenes.waveforms.float()
    prompted, other = waveforms[rows, target], waveforms[rows, 1 - target]
    # the third sound is another scene's, half as loud: nobody in the picture makes it
    mixture = encoder.spectrogram(prompted + other + 0.5 * other.roll(1, 0))
    rest = encoder.spectrogram(other + 0.5 * other.roll(1, 0))
    alone = encoder.spectrogram(prompted)
    # mixtures to separate, single sounds to name and match
    mixed, clean = encoder.audio(torch.cat([mixture, alone])).chunk(2)

    # 1. separation
    prompt = prompt_tokens(visual, scenes.regions[rows, target])
    # where nothing sounds the share is 0, not 0 / 0
    ideal = alone / (alone + rest + 1e-3)
    weight = torch.log1p(10 * mixture)
    mask = separator(mixed, prompt)
    separation = (F.binary_cross_entropy_with_logits(mask, ideal, reduction="none") * weight).sum() / weight.sum()

    # 2. naming
    # the sound alone is named, for the mixture has another scene's timbre too
    heard = F.normalize(clean.mean(1), dim=-1)
    right = scenes.classes[rows, target]
    scale = namer.log_scale.exp()
    if matching == "frames":
        # over the patches, any of which may show the class
        looks = (namer.looks(F.normalize(visual, dim=-1)) * scale).logsumexp(2)
    else:
        looks = namer.looks(F.normalize(prompt, dim=-1)) * scale
    naming = F.cross_entropy(looks.flatten(0, 1), right.repeat_interleave(visual.shape[1]))
    # class c has timbre c % timbres (avcil/params/world.py)
    naming = naming + F.cross_entropy(namer.sounds(heard) * scale, right % namer.sounds.out_features)

    # 3. matching, more where it is loud
    loud = frame_audio(alone.mean(1)[..., None], visual.shape[1])[..., 0]
    if matching == "frames":
        return PriorLoss(separation, naming, frame_matching(encoder, visual, clean, loud))
    share = scenes.regions[rows, target]
    # where the object is hidden no patch is right, and the slot does not count
    visible = share.sum(-1) > 0
    score = encoder.similarity(visual, clean)
    # of the softmax over patches what falls on the object, each by the share that it covers; log 0 is avoided
    log_right = (score + torch.log(share.clamp_min(1e-6))).logsumexp(-1) - score.logsumexp(-1)
    weight = visible * loud
    patches = -(log_right * weight).sum() / weight.sum()
    return PriorLoss(separation, naming, patches)


def _unfinished(path: Path | None, made_from: str) -> dict:
    """What a training of the same settings and scenes left when it was stopped; nothing if there is none, or if that is
    damaged: it begins again."""
    if path is None or not path.exists():
        return {}
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:  # of a damaged file torch's reader raises anything
        print(f"{path}: damaged ({' '.join(str(error).split())[:100]}); training begins again", flush=True)
        return {}
    # what other settings or scenes left is ignored, and written over
    return state if state.get("made_from") == made_from else {}


def pretrain(
    config: PriorConfig, seed: int, learner: PriorLearner, scenes: Scenes, unfinished: Path | None = None
) -> list[dict]:
    """Train in place; returns the three losses every 20 steps.

    With ``unfinished``, a file, all that a next attempt needs is kept there every 50 steps; that attempt goes on with
    the same settings and scenes to the same bytes as an unbroken run. The file stays.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(learner.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=config.steps)
    weights = torch.tensor([config.separation_weight, config.naming_weight, config.patch_weight])
    # the sounds stand for their scenes: frames are more than three times as many bytes
    choices = f"{config.model_dump_json()} {seed} {digest(scenes.waveforms.numpy())}"
    made_from = digest(choices.encode() + code_of(LEARNING))
    parts: dict[str, Any] = {"learner": learner, "optimiser": optimiser, "schedule": schedule}

    saved = _unfinished(unfinished, made_from)
    first, history = saved.get("step", 0), json.loads(saved.get("history", "[]"))
    if saved:
        generator.set_state(saved["generator"])
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    for step in progress(range(first, config.steps), desc=f"prior {seed}", initial=first, total=config.steps):
        # drawn anew at each step, so that the generator's state is all that a resumed run needs to go on
        rows = torch.randperm(len(scenes.frames), generator=generator)[: config.batch]
        losses = prior_loss(learner, Scenes(*(field[rows] for field in scenes)), config.matching)
        optimiser.zero_grad()
        (torch.stack(losses) * weights).sum().backward()
        optimiser.step()
        schedule.step()
        if step % 20 == 0 or step == config.steps - 1:
            history.append({"step": step} | {name: loss.item() for name, loss in losses._asdict().items()})
        if unfinished is not None and (step + 1) % SAVED_EVERY == 0:
            state = {name: part.state_dict() for name, part in parts.items()} | {"generator": generator.get_state()}
            # written as a whole: a kill meanwhile leaves what was saved before
            content = io.BytesIO()
            torch.save(state | {"step": step + 1, "history": json.dumps(history), "made_from": made_from}, content)
            write_bytes(unfinished, content.getvalue())
    return history


@torch.no_grad()
def standardise(encoder: Mini, scenes: Scenes) -> None:
    """Set the encoder's standardisation from its tokens of ``scenes``, one object of each sounding."""
    # in parts, for feature maps take far more memory than tokens
    frames, waveforms = scenes.frames.split(50), scenes.waveforms[:, 0].float().split(50)
    visual = torch.cat([encoder.visual(part) for part in frames])
    audio = torch.cat([encoder.audio(encoder.spectrogram(part)) for part in waveforms])
    encoder.standardise(visual, audio)


def train_prior(params: Params, name: str, folder: Path) -> None:
    """Render the scenes of a prior, a seed or one of ``prior.variants``, train, and write ``mini-NAME.safetensors`` and
    ``history-NAME.csv``; a training that was stopped goes on from ``unfinished-NAME.pt``."""
    config, seed = params.prior.variant(name)
    scenes = render_scenes(config.world, params.film, seed, config.scenes)
    # first weights; scenes and batches are drawn from generators of their own
    torch.manual_seed(seed)
    learner = PriorLearner(params)
    history = pretrain(config, seed, learner, scenes, folder / f"unfinished-{name}.pt")
    standardise(learner.encoder, Scenes(*(field[:STANDARDISED] for field in scenes)))
    table = pd.DataFrame(history).round(4).to_csv(index=False)
    write_bytes(folder / f"history-{name}.csv", table.encode())
    save_prior(folder / f"mini-{name}.safetensors", learner.encoder, learner.separator)


def untrained(params: Params, folder: Path) -> None:
    """Write ``random.safetensors``: the same encoder with weights as training starts from some, standardised alike."""
    # the first ones of seed 0, as for `mini`
    scenes = render_scenes(params.prior.world, params.film, 0, STANDARDISED)
    # the weights that `mini-1` begins with
    torch.manual_seed(1)
    encoder = Mini(params.encoder)
    standardise(encoder, scenes)
    save_prior(folder / "random.safetensors", encoder)


def _comparison(folder: Path, released: Path) -> str:
    """What came out beside what is released, a line a file."""
    lines = []
    for path in sorted(folder.glob("*.safetensors")):
        other = released / path.name
        same = other.exists() and other.read_bytes() == path.read_bytes()
        lines.append(f"{path}: {'the bytes of' if same else 'other bytes than'} {other}")
    return "\n".join(lines)


def _train(name: str | None, params: Params, folder: Path) -> None:
    untrained(params, folder) if name is None else train_prior(params, name, folder)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m avcil.world.pretraining", description="Train the priors again.")
    parser.add_argument(
        "names", nargs="*", help="seeds, or names of prior.variants; all of params.yaml if left out; half an hour each"
    )
    parser.add_argument("--folder", type=Path, default=Path("build/prior"), help="where weights and half-done work go")
    asked = parser.parse_args(arguments)
    params = load()
    known = [*map(str, params.prior.seeds), *params.prior.variants]
    # a wrong name is refused before the first training, which takes half an hour
    for name in (names := asked.names or known):
        try:
            params.prior.variant(name)
        except ValueError as error:
            parser.error(str(error))
    with alone([asked.folder]):
        # None: the untrained one
        for _ in each(partial(_train, params=params, folder=asked.folder), [*names, None]):
            pass
    print(_comparison(asked.folder, Path("prior")))


if __name__ == "__main__":
    main()
