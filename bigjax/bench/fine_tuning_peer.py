"""A fine-tuning step of `transformers` in PyTorch, for `bigjax.bench.fine_tuning` alone, in a process of its own."""
import numpy as np

from bigjax.bench.transformers_peer import version as version

CLOSE = 1e-4  # of both losses before the first step


def stepper(folder: str, tokens: np.ndarray, mask: np.ndarray, label: np.ndarray, expected: np.ndarray, rate: np.ndarray):
    """`run(n)`: n steps of AdamW (rate: learning rate, weight decay) from the weights of a folder, then the loss is read."""
    import torch
    import transformers
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).to(device)
    batch = {name: torch.tensor(array.astype(np.int64), device=device)
             for name, array in (('input_ids', tokens), ('attention_mask', mask), ('labels', label))}
    with torch.inference_mode():
        found = model.eval()(**batch).loss.item()
    if abs(found - expected) > CLOSE:
        raise RuntimeError(f'transformers: got a loss of {found:.6f} before the first step, expected {float(expected):.6f}; '
                           'fix: compare the logits of both')
    optimizer = torch.optim.AdamW(model.parameters(), float(rate[0]), weight_decay=float(rate[1]))
    forward = torch.compile(model.train()) if device == 'cuda' else model.train()

    def run(n: int) -> float:
        for _ in range(n):
            optimizer.zero_grad()
            loss = forward(**batch).loss
            loss.backward()
            optimizer.step()
        return loss.item()

    return run
