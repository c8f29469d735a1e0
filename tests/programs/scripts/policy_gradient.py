"""REINFORCE on a small bandit, with a temperature that no module owns (as in SAC)."""

import torch
from torch import nn

torch.manual_seed(0)
policy = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
log_temperature = torch.zeros(1, requires_grad=True)
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
temperature_optimizer = torch.optim.Adam([log_temperature], lr=1e-2)
for episode in range(5):
    log_probs, rewards = [], []
    for _ in range(10):
        state = torch.rand(4)
        distribution = torch.distributions.Categorical(logits=policy(state))
        action = distribution.sample()
        log_probs.append(distribution.log_prob(action))
        rewards.append(float(action == (state.sum() > 2)))
    returns = torch.tensor(rewards).flip(0).cumsum(0).flip(0)
    loss = -(torch.stack(log_probs) * (returns - returns.mean())).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    temperature_loss = log_temperature.exp() * (torch.stack(log_probs).mean().detach() + 0.5)
    temperature_optimizer.zero_grad()
    temperature_loss.sum().backward()
    temperature_optimizer.step()
    print(episode, sum(rewards), loss.item())
print("weights", [p.double().sum().item() for p in [*policy.parameters(), log_temperature]])
