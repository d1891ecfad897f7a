//! `muster`: client and server in one binary. What it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    muster::main()
}
