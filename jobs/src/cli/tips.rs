//! What is said beside a mistake of the command line: clap knows the flags of one command, and guesses by their letters.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};
use flexps_common::job::{Kind, Registry};
use std::ffi::OsString;

/// The mistake in `line`: of a job that is not there it names those that are, of a flag that belongs elsewhere where that is.
pub fn with_jobs(mut error: Error, grammar: &mut Command, registry: &Registry, line: &[OsString]) -> Error {
    let Some(usage) = error.get(ContextKind::Usage).map(ToString::to_string) else { return error };
    let guessed = error.get(ContextKind::SuggestedSubcommand).is_some();
    match error.kind() {
        ErrorKind::InvalidSubcommand if usage.contains("<JOB>") && !guessed => {
            let jobs: Vec<&str> = registry.kinds().map(|kind| kind.name).collect();
            tip(&mut error, format!("the jobs are {}", jobs.join(", ")));
        }
        ErrorKind::UnknownArgument => {
            if let Some((text, below)) = misplaced(&error, &usage, registry, line) {
                error.remove(ContextKind::SuggestedArg);
                tip(&mut error, text);
                // Clap's has the flag that it guessed.
                let command = below.iter().try_fold(grammar, |command, name| command.find_subcommand_mut(name));
                if let Some(command) = command {
                    error.insert(ContextKind::Usage, ContextValue::StyledStr(command.render_usage()));
                }
            }
        }
        _ => {}
    }
    error
}

fn tip(error: &mut Error, text: String) {
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![text.into()]));
}

/// Where an unknown flag of `run` or `plan` belongs, if it is one of some job, and the command that does not know it.
fn misplaced(error: &Error, usage: &str, registry: &Registry, line: &[OsString]) -> Option<(String, Vec<String>)> {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    let name = flag.strip_prefix("--")?;
    let of: Vec<&Kind> = registry.kinds().filter(|kind| kind.has(name)).collect();
    let owners = || of.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
    // `Usage: flexps run lr …`, or `Usage: flexps run … <JOB>` where no job was met before the flag.
    let mut words = usage.split_whitespace().skip(2);
    let parent = words.next().filter(|word| ["run", "plan"].contains(word))?.to_owned();
    let met = words.next().and_then(|word| registry.kinds().find(|kind| kind.name == word));
    if of.is_empty() {
        return None;
    }
    if let Some(job) = met {
        // Where it is one of this job, it stands behind `--`.
        return (!job.has(name))
            .then(|| (format!("{flag} is a flag of {}", owners()), vec![parent, job.name.to_owned()]));
    }
    let mut behind = line.iter().skip_while(|word| !is(flag, word)).skip(1);
    let job = behind.find_map(|word| registry.kinds().find(|kind| word == kind.name));
    let text = match job {
        Some(job) if !job.has(name) => format!("{flag} is a flag of {}", owners()),
        job => format!("{flag} is a flag of the job: put it behind {}", job.map_or("JOB", |job| job.name)),
    };
    Some((text, vec![parent]))
}

/// Whether a word is this flag, maybe with its value.
fn is(flag: &str, word: &OsString) -> bool {
    word.to_str().and_then(|word| word.strip_prefix(flag)).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args;

    fn said(line: &str) -> String {
        let registry = crate::registry();
        let mut grammar = args::command(&registry);
        let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let error = grammar.try_get_matches_from_mut(&line).unwrap_err();
        with_jobs(error, &mut grammar, &registry, &line).to_string()
    }

    #[test]
    fn a_flag_that_belongs_elsewhere_is_told_where() {
        for (line, tip, usage) in [
            ("flexps run --input x lr", "--input is a flag of the job: put it behind lr", "run [OPTIONS] <JOB>"),
            (
                "flexps run --input=x --slots 2 svm",
                "--input is a flag of the job: put it behind svm",
                "run [OPTIONS] <JOB>",
            ),
            ("flexps run --solver newton lr", "--solver is a flag of the job: put it behind lr", "run [OPTIONS] <JOB>"),
            ("flexps plan --input x lr", "--input is a flag of the job: put it behind lr", "plan [OPTIONS] <JOB>"),
            ("flexps run --input x", "--input is a flag of the job: put it behind JOB", "run [OPTIONS] <JOB>"),
            ("flexps run --optimizer saga svm", "--optimizer is a flag of lr\n", "run [OPTIONS] <JOB>"),
            ("flexps run svm --optimizer saga", "--optimizer is a flag of lr\n", "run svm [OPTIONS]"),
            ("flexps run svrg --threads 2", "--threads is a flag of lasso, lr, svm\n", "run svrg [OPTIONS]"),
        ] {
            let said = said(line);
            assert!(said.contains(&format!("tip: {tip}")), "{line}: {said}");
            assert!(said.contains(&format!("Usage: flexps {usage}")) && !said.contains("similar"), "{line}: {said}");
        }
    }

    #[test]
    fn what_no_job_has_is_guessed_and_what_stands_elsewhere_left_alone() {
        assert!(said("flexps run svrg --epoch 3").contains("a similar argument exists: '--epochs'"));
        assert!(said("flexps run nojob").contains("tip: the jobs are lasso, lr, sleep, svm, svrg"));
        for line in ["flexps status --input x", "flexps run lr -- --input x"] {
            assert!(!said(line).contains("is a flag of"), "{line}");
        }
    }
}
