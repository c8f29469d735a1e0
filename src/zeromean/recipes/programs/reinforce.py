"""Train a policy by REINFORCE on a gymnasium environment.

The returns within each episode are standardized, so that their mean is the baseline. Each
evaluation prints one line with the mean return of greedy episodes.

    python reinforce.py --env CartPole-v1 --seed 0
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

from zeromean.recipes.programs.training import Processes, Record, at_least, make_parser

# Each seed of a run has this many seeds of training episodes; those of evaluation are above all.
EPISODES = 100_000
EVALUATION_SEED = 10**9


@torch.no_grad()
def play(
    envs: list[gymnasium.Env], policy: nn.Module, seeds: Iterable[int], greedy: bool
) -> list[tuple[torch.Tensor, torch.Tensor, list[float]]]:
    """Play one episode per seed in parallel; return the states, actions and rewards of each."""
    playing = [
        (env, env.reset(seed=seed)[0], ([], [], [])) for env, seed in zip(envs, seeds, strict=False)
    ]
    episodes = [memory for _, _, memory in playing]
    while playing:
        logits = policy(torch.tensor(np.stack([state for _, state, _ in playing])).float())
        chosen = logits.argmax(1) if greedy else Categorical(logits=logits).sample()
        begun, playing = playing, []
        for (env, state, memory), action in zip(begun, chosen.tolist(), strict=True):
            after, reward, terminated, truncated, _ = env.step(action)
            for values, value in zip(memory, (state, action, float(reward)), strict=True):
                values.append(value)
            if not (terminated or truncated):
                playing.append((env, after, memory))
    return [
        (torch.tensor(np.stack(s)).float(), torch.tensor(a), rewards) for s, a, rewards in episodes
    ]


def discounted(rewards: list[float], gamma: float) -> torch.Tensor:
    """Compute the discounted return from each step to the end of the episode."""
    returns, total = [], 0.0
    for reward in reversed(rewards):
        total = reward + gamma * total
        returns.append(total)
    return torch.tensor(returns[::-1])


class RandomNumbers:
    """The state of torch's random numbers, as a part of a checkpoint."""

    state_dict = staticmethod(torch.get_rng_state)
    load_state_dict = staticmethod(torch.set_rng_state)


def main() -> None:
    parser = make_parser(__doc__, out="reinforce")
    parser.add_argument("--env", default="CartPole-v1", help="environment with discrete actions")
    parser.add_argument("--hidden", type=at_least(1), default=128)
    parser.add_argument("--episodes", type=at_least(1, EPISODES), default=500)
    parser.add_argument("--batch-size", type=at_least(1), default=5, help="episodes per update")
    parser.add_argument("--optimizer", choices=["adam", "sgd"], default="adam")
    parser.add_argument("--lr", type=at_least(0.0), default=0.01)
    parser.add_argument("--gamma", type=at_least(0.0, 1.0), default=0.99)
    parser.add_argument("--evaluate-every", type=at_least(1), default=50, help="episodes")
    parser.add_argument(
        "--evaluations", type=at_least(1), default=10, help="greedy episodes per evaluation"
    )
    args = parser.parse_args()
    if args.seed >= EVALUATION_SEED // EPISODES:
        parser.error(f"--seed {args.seed} is not below {EVALUATION_SEED // EPISODES}")

    torch.manual_seed(args.seed)
    try:
        count = max(args.batch_size, args.evaluations)
        envs = [gymnasium.make(args.env, disable_env_checker=True) for _ in range(count)]
    except gymnasium.error.Error as error:
        parser.error(str(error))
    env = envs[0]
    if not isinstance(env.action_space, gymnasium.spaces.Discrete):
        parser.error(f"{args.env} has no discrete actions")
    if len(env.observation_space.shape or ()) != 1:
        parser.error(f"the observations of {args.env} are not vectors")
    inputs, actions = env.observation_space.shape[0], int(env.action_space.n)
    policy = nn.Sequential(
        nn.Linear(inputs, args.hidden), nn.ReLU(), nn.Linear(args.hidden, actions)
    )
    kind = torch.optim.Adam if args.optimizer == "adam" else torch.optim.SGD
    optimizer = kind(policy.parameters(), lr=args.lr)
    parts = {"policy": policy, "optimizer": optimizer, "random": RandomNumbers()}
    record = Record(args, Processes(), parts, unit="episode")

    started = time.perf_counter()
    for number in range(record.begun, args.episodes, args.batch_size):
        done = min(number + args.batch_size, args.episodes)
        loss = torch.zeros(())
        with torch.autocast("cpu", torch.bfloat16, enabled=args.amp):
            seeds = range(args.seed * EPISODES + number, args.seed * EPISODES + done)
            for states, actions, rewards in play(envs, policy, seeds, greedy=False):
                returns = discounted(rewards, args.gamma)
                advantage = (returns - returns.mean()) / (returns.std(correction=0) + 1e-6)
                chosen = Categorical(logits=policy(states)).log_prob(actions)
                loss = loss - (chosen * advantage).sum() / (done - number)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if done % args.evaluate_every < args.batch_size or done == args.episodes:
            seeds = range(EVALUATION_SEED, EVALUATION_SEED + args.evaluations)
            scores = [sum(rewards) for _, _, rewards in play(envs, policy, seeds, greedy=True)]
            value = sum(scores) / len(scores)
            record.write(done, {"return": value}, time.perf_counter() - started)
            record.save(done)
            started = time.perf_counter()


if __name__ == "__main__":
    main()
