//! Hellos of devices: `welcome` responds with the log's position and the config, and grants new
//! epochs, at a limited rate (`epoch_limit`); `catch_up` compares the log with the broker.

mod catch_up;
mod epoch_limit;
mod welcome;

pub use welcome::Hellos;
