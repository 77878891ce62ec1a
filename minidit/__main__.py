"""The command line: python -m minidit COMMAND; see --help."""

import argparse
import sys

from minidit.cli import autoencoder, bench, classifier, demo, evaluate, experiment, sample, train
from minidit.cli.terminal import add_compile

EXAMPLES = """examples:
  python -m minidit demo
  python -m minidit train --data mnist --out runs/mnist --preset mnist
  python -m minidit sample --weights dit-mnist --per-class 10 --guidance 2 --out digits.png
  python -m minidit train --preset dit-cifar10 --out runs/cifar10
  python -m minidit train --data scenes --preset scenes-text --out runs/text
  python -m minidit sample --weights runs/text/weights.safetensors \\
      --prompt "a red three left of a small blue seven"
  python -m minidit sample --weights runs/mnist/weights.safetensors --labels 3,1,4 --out pi.npz
"""

HOMES = {  # the file in which a command is a function of its name
    "demo": demo,
    "train": train,
    "sample": sample,
    "evaluate": evaluate,
    "classifier": classifier,
    "encode": autoencoder,
    "reconstruct": autoencoder,
    "experiment": experiment,
    "bench": bench,
}


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        "python -m minidit",
        description="The diffusion transformer, built step by step.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_demo,
        _add_train,
        _add_sample,
        _add_evaluate,
        _add_classifier,
        _add_encode,
        _add_reconstruct,
        _add_experiment,
        bench.add_bench,
    ):
        add(subparsers)
    return top


def _add_demo(subparsers) -> None:
    p = subparsers.add_parser("demo", help="train on drawn digits for two minutes, look at samples")
    p.add_argument("--out", default="demo.png", help="the picture (default: %(default)s)")
    p.add_argument("--seconds", type=float, default=115, help="of training, at most (%(default)g)")
    p.add_argument("--seed", type=int, default=0, help="of weights and noise (%(default)s)")
    p.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")
    p.set_defaults(run="demo")


def _add_train(subparsers) -> None:
    p = subparsers.add_parser(
        "train",
        help="train a network; the same command again goes on where it stopped",
        description="Train a DiT, a U-ViT or an autoencoder. The folder --out receives "
        "checkpoint.pt, log.csv and, at the end, weights.safetensors. Stop it when you like: the "
        "same command goes on, to the bit. On several GPUs or machines: torchrun … -m minidit "
        "train …, with the same arguments.",
    )
    p.add_argument(
        "--data", help="digits, mnist, cifar10 or scenes (default: the preset's, or mnist)"
    )
    p.add_argument("--out", required=True, help="folder of the run")
    p.add_argument(
        "--preset",
        default="mnist",
        help="a name in minidit.presets or minidit.autoencoder_presets (%(default)s)",
    )
    p.add_argument("--autoencoder", help="whose latents to train on (default: the preset's)")
    p.add_argument("--start", help="weights to start from, as far as they fit (the preset's)")
    p.add_argument("--steps", type=int, help="instead of the preset's")
    p.add_argument("--batch-size", type=int, help="instead of the preset's")
    p.add_argument("--lr", type=float, help="instead of the preset's")
    p.add_argument("--seed", type=int, default=0, help="of weights and batches (%(default)s)")
    p.add_argument("--save-every", type=int, default=100, help="steps (%(default)s)")
    p.add_argument(
        "--accumulate",
        type=int,
        default=1,
        help="compute a batch in so many parts, for want of memory; same result (%(default)s)",
    )
    add_compile(p)
    p.add_argument("--threads", type=int, help="processor threads (default: all)")
    p.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")
    p.set_defaults(run="train")


def _add_sample(subparsers) -> None:
    p = subparsers.add_parser("sample", help="draw images with trained weights")
    p.add_argument("--weights", default="dit-mnist", help="a shipped name or a file (%(default)s)")
    p.add_argument(
        "--per-class", type=int, default=10, help="images of each class or prompt (%(default)s)"
    )
    p.add_argument("--labels", help="these labels instead, e.g. 3,1,4")
    p.add_argument(
        "--prompt",
        nargs="+",
        action="extend",
        help='texts, e.g. "a red three left of a small blue seven"',
    )
    p.add_argument(
        "--boxes",
        nargs="+",
        action="extend",
        help='layouts, e.g. "red three 0.1 0.2 0.4 0.7; blue seven 0.6 0.3 0.9 0.6"',
    )
    _add_sampling(p)
    p.add_argument("--out", default="samples.png", help="FILE.png or FILE.npz (%(default)s)")
    p.add_argument("--film", help="FILE.png: all steps as an animated PNG, too")
    p.add_argument("--strip", help="FILE.png: a row for each image, time to the right, too")
    p.set_defaults(run="sample")


def _add_evaluate(subparsers) -> None:
    p = subparsers.add_parser("evaluate", help="judge samples beside as many real images")
    p.add_argument("--weights", default="dit-mnist", help="a shipped name or a file (%(default)s)")
    p.add_argument("--data", help="whose classifier and images (default: what they trained on)")
    p.add_argument(
        "--per-class",
        type=int,
        default=100,
        help="images of each class; of scenes, with seen and with held-out pairs (%(default)s)",
    )
    _add_sampling(p)
    p.add_argument(
        "--inception",
        metavar="FILE",
        help="of photographs, the usual FID as well: the file of InceptionV3's weights",
    )
    p.add_argument("--store", action="store_true", help="add the figures to the weights' JSON file")
    p.set_defaults(run="evaluate")


def _add_sampling(p: argparse.ArgumentParser) -> None:
    p.add_argument("--guidance", type=float, default=2, help="1 is none (%(default)g)")
    p.add_argument(
        "--sampler", default="ddim", help="ddim, ddpm, dpm_solver or euler_maruyama (%(default)s)"
    )
    p.add_argument("--steps", default="50", help='how many, or a rule like "quad25" (%(default)s)')
    p.add_argument("--seed", type=int, default=0, help="of the noise (%(default)s)")
    p.add_argument(
        "--clip",
        action="store_true",
        help="keep predicted images in range (noise-predicting weights)",
    )
    p.add_argument("--autoencoder", help="of weights that draw latents, if it was moved: a file")
    p.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")


def _add_classifier(subparsers) -> None:
    p = subparsers.add_parser("classifier", help="train the classifier that judges samples")
    p.add_argument("--data", default="mnist", help="digits, mnist, cifar10 or scenes (%(default)s)")
    p.add_argument("--out", required=True, help="FILE.safetensors")
    p.add_argument("--steps", type=int, default=3000, help="of 256 images (%(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of weights and batches (%(default)s)")
    p.add_argument("--threads", type=int, help="processor threads (default: all)")
    p.set_defaults(run="classifier")


def _add_encode(subparsers) -> None:
    p = subparsers.add_parser("encode", help="encode a data set into scaled latents, once")
    p.add_argument("--weights", default="kl-mnist", help="an autoencoder's (%(default)s)")
    p.add_argument("--data", default="mnist", help="digits, mnist or cifar10 (%(default)s)")
    p.add_argument("--split", default="train", help="train or test (%(default)s)")
    p.add_argument("--out", help="FILE.safetensors (default: the cache that training looks into)")
    p.add_argument("--threads", type=int, help="processor threads (default: all)")
    p.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")
    p.set_defaults(run="encode")


def _add_reconstruct(subparsers) -> None:
    p = subparsers.add_parser(
        "reconstruct", help="encode and decode test images, and judge what is left of them"
    )
    p.add_argument("--weights", default="kl-mnist", help="an autoencoder's (%(default)s)")
    p.add_argument("--data", default="mnist", help="whose classifier and images (%(default)s)")
    p.add_argument("--images", type=int, default=10_000, help="how many to judge (%(default)s)")
    p.add_argument("--out", default="reconstructions.png", help="the picture (%(default)s)")
    p.add_argument("--store", action="store_true", help="add the figures to the weights' JSON file")
    p.add_argument("--threads", type=int, help="processor threads (default: all)")
    p.set_defaults(run="reconstruct")


def _add_experiment(subparsers) -> None:
    p = subparsers.add_parser(
        "experiment",
        help="run a named experiment, or go on with it",
        description="Run what is missing of an experiment, store each run as it ends, and print "
        "the table.",
    )
    p.add_argument("name", nargs="?", help="which one; leave it out for a list")
    p.add_argument("--scale", default="cpu", help="smoke, cpu or gpu (%(default)s)")
    p.add_argument("--seeds", type=int, default=1, help="runs of each variant (%(default)s)")
    p.add_argument("--out", default="data/results", help="folder of NAME.json (%(default)s)")
    p.add_argument("--threads", type=int, default=1, help="processor threads (%(default)s)")
    p.set_defaults(run="experiment")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; errors that a user can mend are one sentence, and exit code 2."""
    args = parser().parse_args(arguments)
    try:
        getattr(HOMES[args.run], args.run)(args)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        print(f"minidit {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; a training run goes on from its last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
