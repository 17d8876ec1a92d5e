//! Tuning: optimizer, schedule, trainer, resume, metrics, memory plan.
