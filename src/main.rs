//! `noclaw`: clean the process, then do what the command line says.

use std::process::ExitCode;

fn main() -> ExitCode {
    noclaw::host::process::clean();
    noclaw::commands::main()
}
