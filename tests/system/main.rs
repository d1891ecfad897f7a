//! System tests, one module a user story, in one binary. Everything in them is real.

mod architecture;
mod enroll;
mod everyday;
mod faults;
mod hostile;
mod openapi;
