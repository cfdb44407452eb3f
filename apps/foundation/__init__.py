"""Foundation models of many sensors: pretrain, embed, probe, adapt."""
