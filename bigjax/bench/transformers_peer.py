"""`transformers.generate` in PyTorch, for `bigjax.bench.decoding` alone, in a process of its own."""
import numpy as np


def stepper(folder: str, tokens: np.ndarray, mask: np.ndarray, expected: np.ndarray):
    """`run(n)`: n greedy generations with the weights of a folder, which have to yield the expected tokens."""
    import torch
    import transformers
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(device)
    model.generation_config.eos_token_id = None
    inputs = torch.tensor(tokens, device=device).long(), torch.tensor(mask, device=device).long()
    new = expected.shape[1] - tokens.shape[1]

    def run(n: int) -> None:
        for _ in range(n):
            with torch.inference_mode():
                found = model.generate(inputs[0], attention_mask=inputs[1], max_new_tokens=new, do_sample=False, pad_token_id=0)
        if not np.array_equal(found.cpu().numpy(), expected):
            raise RuntimeError('transformers: got other tokens than ours, expected the same; fix: compare the logits of both')

    return run


def version() -> str:
    """Those of transformers and PyTorch."""
    import torch
    import transformers
    return f'transformers {transformers.__version__}, torch {torch.__version__}'
