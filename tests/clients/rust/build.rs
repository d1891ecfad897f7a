//! Generates the client from `docs/openapi-3.0.json`, which equals what the server serves
//! (`tests/system/openapi/`).

use std::error::Error;
use std::path::Path;
use std::{env, fs};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/openapi-3.0.json");

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={DOCUMENT}");
    // progenitor knows one media type of JSON. Errors are then typed, too.
    let text =
        fs::read_to_string(DOCUMENT)?.replace("application/problem+json", "application/json");
    let mut document: serde_json::Value = serde_json::from_str(&text)?;
    // It accepts one type of successful response for each operation; this one, which only agents
    // use, has two.
    if let Some(paths) = document["paths"].as_object_mut() {
        paths.remove("/api/v1/device/enroll");
    }
    let document: openapiv3::OpenAPI = serde_json::from_value(document)?;
    let mut settings = progenitor::GenerationSettings::new();
    settings.with_interface(progenitor::InterfaceStyle::Builder);
    let tokens = progenitor::Generator::new(&settings).generate_tokens(&document)?;
    let code = prettyplease::unparse(&syn3::parse2(tokens)?);
    fs::write(Path::new(&env::var("OUT_DIR")?).join("client.rs"), code)?;
    Ok(())
}
