//! `muster`: client and server in one program, implemented in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    muster::main()
}
