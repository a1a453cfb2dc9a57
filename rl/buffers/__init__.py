"""What an agent remembers: rollouts, replay, goals relabelled in hindsight."""
