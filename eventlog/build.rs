//! Rebuilds this crate when a migration is added, which `sqlx::migrate!` alone does not detect.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
