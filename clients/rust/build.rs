//! Generates the stubs from protos/.

use std::error::Error;
use std::path::Path;

const FILES: [&str; 6] = [
    "activity",
    "generation",
    "model",
    "options",
    "prompt",
    "tokenization",
];

fn main() -> Result<(), Box<dyn Error>> {
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../protos");
    let files = FILES.map(|name| format!("tokenwire/frontend/v1/{name}.proto"));
    println!("cargo:rerun-if-changed={}", protos.display());
    // Also what every error carries.
    let details = ["google/rpc/error_details.proto".to_string()];
    let set = protox::compile(files.iter().chain(&details), [protos])?;
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(set)?;
    Ok(())
}
