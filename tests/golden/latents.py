"""Latent diffusion's distribution of latents and its codebook."""

import torch

from golden import AUTOENCODER, DOUBLE, PROCESS, Comparison, Golden
from minidit import DiagonalGaussian, Quantizer, load_official
from minidit.diffusion import normal_kl


def gaussian():
    """Samples and divergences, the clamp, and a gradient through all of them."""
    golden = Golden("ldm_gaussian")
    parameters = golden["in/parameters"].requires_grad_()
    q, x = DiagonalGaussian(parameters), golden["in/nll_sample"]
    clamped = DiagonalGaussian(golden["in/clamp_parameters"])
    sample = q.sample(noise=golden["in/noise"])
    ((sample * x).sum() + 0.1 * q.kl().sum()).backward()
    found = {
        "mean": q.mean,
        "logvar": q.logvar,
        "std": q.std,
        "var": q.var,
        "mode": q.mode,
        "sample": sample,
        "det_sample": q.mode,
        "kl": q.kl(),
        "kl_other": q.kl(DiagonalGaussian(golden["in/other_parameters"])),
        "clamp_logvar": clamped.logvar,
        "clamp_std": clamped.std,
        "clamp_kl": clamped.kl(),
        "grad_of_sum_sample_times_nllsample_plus_0.1_sum_kl": parameters.grad,
        "normal_kl": normal_kl(
            *(golden[f"in/nkl_{name}"] for name in ("mean1", "logvar1", "mean2", "logvar2"))
        ),
    }
    for what, ours in found.items():
        yield Comparison(golden.name, f"out/{what}", ours, golden[f"out/{what}"], PROCESS)


def codebook():
    """Codes, indices, both losses and their gradients; the perplexity."""
    golden = Golden("ldm_vq")
    for convention in ("legacy", "fixed"):
        book = Quantizer(*golden["in/codebook"].shape, golden.config["beta"], convention)
        book.table.data = golden["in/codebook"].clone()
        z = golden["in/z"].requires_grad_()
        found = book(z)
        (found.loss + (found.codes * golden["in/w"]).sum()).backward()
        ours = {
            "z_q": found.codes,
            "loss": found.loss,
            "indices": found.indices.flatten(),
            "grad_z": z.grad,
            "grad_codebook": book.table.grad,
        }
        for name, value in ours.items():
            what = f"out/{convention}/{name}"
            yield Comparison(golden.name, what, value, golden[what], PROCESS)
    perplexity = torch.tensor(book.usage(found.indices).perplexity)
    ours = {
        "indices_bhw": found.indices,
        "codebook_entry": book.lookup(golden["out/indices_bhw"]),
        "vq1/z_q": found.codes,
        "vq1/loss": found.loss,
        "vq1/perplexity": perplexity,
    }
    for name, value in ours.items():
        yield Comparison(golden.name, f"out/{name}", value, golden[f"out/{name}"], PROCESS)


def autoencoders():
    """Latent diffusion's autoencoders, and diffusers' names of one, there and back."""
    for name in ("ldm_autoencoder_kl", "ldm_autoencoder_vq", "hf_autoencoder_kl"):
        golden = Golden(name)
        model = load_official({k: z.float() for k, z in golden.part("sd/").items()})
        for out, dtype in {"out/": torch.float32, "out64/": torch.float64}.items():
            x, official = golden["in/x"].to(dtype), golden.part(out)
            with torch.no_grad():
                latents = model.to(dtype).latents(x)
                found = {"latent": latents, "reconstruction": model.decode(latents)}
                found["encoded"] = model.encoded(x)
                if name.startswith("hf"):
                    q = model.encode(x)
                    found |= {"mean": q.mean, "logvar": q.logvar}
                if "indices" in official:
                    found["indices"] = model.encode(x).indices.flatten()
            allowed = AUTOENCODER if dtype is torch.float32 else DOUBLE
            for what in official.keys() & found.keys():
                yield Comparison(golden.name, out + what, found[what], official[what], allowed)
