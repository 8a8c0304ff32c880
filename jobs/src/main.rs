//! The `flexps` command with the jobs of this crate.

fn main() -> std::process::ExitCode {
    flexps_jobs::cli::main(flexps_jobs::registry())
}
