//! Writes the seeds of every target into `fuzz/corpus/`, from `schemas/golden/`.

use std::path::Path;
use std::{fs, io};

fn main() -> io::Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut golden = Vec::new();
    for entry in fs::read_dir(here.join("../schemas/golden"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "cbor") {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            golden.push((stem, fs::read(path)?));
        }
    }
    for (target, _) in muster_fuzz::TARGETS {
        let folder = here.join("corpus").join(target);
        fs::create_dir_all(&folder)?;
        for (index, seed) in muster_fuzz::seeds(target, &golden).iter().enumerate() {
            fs::write(folder.join(format!("seed-{index}")), seed)?;
        }
    }
    Ok(())
}
