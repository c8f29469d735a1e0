"""An LSTM language model with clipping and truncated backpropagation."""

import torch
from torch import nn


class Language(nn.Module):
    def __init__(self, tokens=30, size=16):
        super().__init__()
        self.encoder = nn.Embedding(tokens, size)
        self.rnn = nn.LSTM(size, size, 2)
        self.decoder = nn.Linear(size, tokens)

    def forward(self, x, state):
        output, state = self.rnn(self.encoder(x), state)
        return self.decoder(output), state


torch.manual_seed(0)
model = Language()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
text = torch.randint(0, 30, (61, 4))
state = None
for start in range(0, 60, 10):
    x, y = text[start : start + 10], text[start + 1 : start + 11]
    output, state = model(x, state)
    state = tuple(s.detach() for s in state)
    loss = criterion(output.flatten(0, 1), y.flatten())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    optimizer.step()
    print(loss.item())
print("weights", [p.double().sum().item() for p in model.parameters()])
