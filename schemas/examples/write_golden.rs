//! Writes missing golden files; an existing file is never changed.
//!
//! `cargo run -p muster-schemas --example write_golden`, after adding a sample of the new shape in
//! `schemas/tests/language/samples/`. Review the `.diag` of each new file before committing.

#![allow(clippy::too_many_lines, reason = "samples are lists")]
#![expect(clippy::print_stdout, reason = "a tool that reports which files it wrote")]

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use muster_schemas::Hash;

#[path = "../tests/language/samples/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest of it")]
mod samples;

fn main() -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut sums = OpenOptions::new().create(true).append(true).open(folder.join("SHA256SUMS"))?;
    for sample in samples::all() {
        let name = format!("{}.cbor", sample.stem());
        if folder.join(&name).exists() {
            continue;
        }
        fs::write(folder.join(&name), &sample.bytes)?;
        fs::write(
            folder.join(format!("{}.diag", sample.stem())),
            samples::diagnostic(&sample.bytes),
        )?;
        writeln!(sums, "{}  {name}", Hash::of(&sample.bytes))?;
        println!("wrote golden/{name}");
    }
    Ok(())
}
