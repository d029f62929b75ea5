//! Debian's archive, of any release and architecture, by apt in a private root.
//!
//! The lists, the cache and the sources are its own; only the mirror, the way to it and the keys
//! are the host's. Nothing is installed.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    report::note,
    static_build::Arch,
    workspace::{output_of, run_to_end},
};

/// What Debian's archive signs with; in `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The suites of the security archive, and those of the main one.
const SECURITY: [&str; 2] = ["bullseye-security", "bookworm-security"];
const MAIN: [&str; 2] = [RELEASE, "trixie-backports"];

/// The release that the machines' programs are from.
const RELEASE: &str = "trixie";

/// How old the lists may be.
const FRESH: Duration = Duration::from_hours(24);

/// apt's private root for one architecture.
pub(super) struct Archive {
    root: PathBuf,
    arch: Arch,
}

impl Archive {
    /// Makes it in `cache`, and fetches the lists unless they are there and of today.
    ///
    /// # Errors
    /// When this is not Debian, or there are no lists and none can be fetched.
    pub(super) fn open(cache: &Path, arch: Arch) -> Result<Self> {
        let root = cache.join("apt").join(arch.debian());
        let archive = Self { root, arch };
        archive.lay_out()?;
        let stamp = archive.root.join("updated");
        if is_fresh(&stamp) {
            return Ok(archive);
        }
        let mut command = archive.apt("apt-get");
        command.args(["update", "--quiet=2", "-o", "APT::Update::Error-Mode=any"]);
        note!("fetching Debian's lists of packages for {}", arch.debian());
        match run_to_end(&mut command) {
            Ok(()) => fs::write(&stamp, "")?,
            Err(error) if stamp.exists() => {
                note!("{error:#}; using the lists of before");
            }
            Err(error) => return Err(error.context("fetch Debian's lists of packages")),
        }
        Ok(archive)
    }

    /// The names of all packages.
    ///
    /// # Errors
    /// When apt-cache fails.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let names = output_of(self.apt("apt-cache").arg("pkgnames"))?;
        let names = String::from_utf8_lossy(&names);
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Downloads one package, checked as apt checks what it installs, the newest or that version.
    ///
    /// # Errors
    /// When apt-get fails.
    pub(super) fn download(
        &self,
        package: &str,
        version: Option<&str>,
        to: &Path,
    ) -> Result<PathBuf> {
        let mut command = self.apt("apt-get");
        let version = version.map_or_else(String::new, |version| format!("={version}"));
        command
            .args(["download", "--quiet=2"])
            .arg(format!("{package}:{}{version}", self.arch.debian()))
            .current_dir(to);
        note!("downloading {package}");
        if let Err(error) = output_of(&mut command) {
            // Of a release whose time is over, the lists may name more than there is.
            if format!("{error:#}").contains(" 404 ") {
                bail!("Debian's archive lists {package}, but does not have its file any more");
            }
            return Err(error);
        }
        let mut files = packages_in(to)?;
        files
            .pop()
            .with_context(|| format!("apt-get has downloaded no {package}"))
    }

    /// Downloads packages of the release and all that they depend on.
    ///
    /// # Errors
    /// When apt-get fails.
    pub(super) fn download_with_dependencies(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let archives = self.root.join("cache/archives");
        for old in packages_in(&archives)? {
            fs::remove_file(old)?;
        }
        let mut command = self.apt("apt-get");
        command
            .args(["install", "--download-only", "--yes", "--quiet=2"])
            .args(["--no-install-recommends", "--target-release", RELEASE])
            .args(packages)
            .stdout(Stdio::null());
        note!("downloading {} and what they need", packages.join(" "));
        run_to_end(&mut command)?;
        packages_in(&archives)
    }

    fn lay_out(&self) -> Result<()> {
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing: install debian-archive-keyring, on Debian");
        }
        for folder in ["lists/partial", "cache/archives/partial", "etc"] {
            fs::create_dir_all(self.root.join(folder))?;
        }
        fs::write(self.root.join("status"), "")?;
        fs::write(self.root.join("sources.list"), self.sources()?)?;
        let root = self.root.display();
        let arch = self.arch.debian();
        let config = format!(
            "APT::Architecture \"{arch}\";\nAPT::Architectures \"{arch}\";\n\
             Dir::State::lists \"{root}/lists\";\nDir::State::status \"{root}/status\";\n\
             Dir::Cache \"{root}/cache\";\nDir::Etc::sourcelist \"{root}/sources.list\";\n\
             Dir::Etc::sourceparts \"{root}/etc\";\nDir::Etc::preferencesparts \"{root}/etc\";\n\
             Acquire::Languages \"none\";\nAPT::Sandbox::User \"root\";\n"
        );
        fs::write(self.root.join("apt.conf"), config)?;
        // apt reads what it may as its own user.
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn sources(&self) -> Result<String> {
        let mut command = Command::new("apt-get");
        command.args(["indextargets", "--format", "$(SITE) $(RELEASE) $(ORIGIN)"]);
        let targets = output_of(&mut command).context("ask apt for its mirror")?;
        let mirrors = Mirrors::in_targets(&String::from_utf8_lossy(&targets))?;
        let line = |site: &str, suite: &str| {
            let arch = self.arch.debian();
            format!("deb [arch={arch} signed-by={KEYRING}] {site} {suite} main\n")
        };
        let security = SECURITY.map(|suite| line(&mirrors.security, suite));
        let main = MAIN.map(|suite| line(&mirrors.main, suite));
        Ok(security.concat() + &main.concat())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.root.join("apt.conf"))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C");
        command
    }
}

/// Where the host gets its packages from.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    main: String,
    security: String,
}

impl Mirrors {
    /// From lines of site, release and origin.
    fn in_targets(targets: &str) -> Result<Self> {
        let mut main = None;
        let mut security = None;
        for line in targets.lines() {
            let mut words = line.split_whitespace();
            let (Some(site), Some(release), origin) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            // The origin is known once the host's own lists have been fetched.
            if origin.is_some_and(|origin| origin != "Debian" && !origin.starts_with('$')) {
                continue;
            }
            let place = if release.ends_with("-security") {
                &mut security
            } else {
                &mut main
            };
            place.get_or_insert_with(|| site.to_owned());
        }
        let main = main.context("apt has no Debian mirror configured")?;
        let security =
            security.context("apt has no mirror of Debian's security archive configured")?;
        Ok(Self { main, security })
    }
}

fn packages_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut packages = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            packages.push(path);
        }
    }
    packages.sort();
    Ok(packages)
}

fn is_fresh(stamp: &Path) -> bool {
    fs::metadata(stamp)
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age < FRESH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_mirrors_of_the_host() {
        let targets = "http://a/other stable Else\nhttp://a/debian bookworm Debian\n\
                       http://a/debian bookworm-updates Debian\n\
                       http://b/security bookworm-security Debian\n";
        assert_eq!(
            Mirrors::in_targets(targets).unwrap(),
            Mirrors {
                main: "http://a/debian".into(),
                security: "http://b/security".into()
            }
        );
        assert!(Mirrors::in_targets("http://a/debian bookworm Debian\n").is_err());
        assert!(Mirrors::in_targets("").is_err());
    }
}
