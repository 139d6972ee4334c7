//! Compiles the protocol. protox takes the place of protoc, so building needs no system package.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto");
    let files = protox::compile(["highwater/v1/sync.proto"], ["../../proto"])?;
    tonic_prost_build::configure().bytes(".highwater.v1").compile_fds(files)?;
    Ok(())
}
