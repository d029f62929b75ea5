//! Which files there are of the services: those of a config's directories, as they stand in for each
//! other, and what is to be merged into each. Reads none of them.
//!
//! ```text
//! services/web.toml          the service web
//! services/web.toml.d/*.toml drop-ins, merged into it in the order of their names
//! services/x@.toml           a template, no service by itself
//! services/x@a.toml          a link to x@.toml: the instance x@a of the template;
//!                            any other file: a service of its own
//! ```
//! There may be a directory of packages below the config's own. A file of the config's own stands in
//! for one of the same name there. A link to /dev/null masks a file of that name, and so does an empty
//! file, where there is something to mask.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::agent::{AgentConfig, Packages};
use super::{SERVICES, stem};

/// Where packages put their services, for the config directory that the agent has by default.
const OF_PACKAGES: (&str, &str) = ("/etc/respawn", "/usr/lib/respawn/services");

/// The files of the services of some directories.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Later ones stand in for earlier ones.
    dirs: Vec<PathBuf>,
    files: BTreeMap<OsString, PathBuf>,
    /// Links to templates: by the template's prefix, each instance's name and its link.
    links: BTreeMap<String, BTreeMap<String, PathBuf>>,
    /// Names of files.
    masked: BTreeSet<OsString>,
}

/// Where the services of packages are, if they are read.
pub(super) fn packages(config_dir: &Path, agent: &AgentConfig) -> Option<PathBuf> {
    let (default, services) = OF_PACKAGES;
    match &agent.package_services {
        Packages::At(path) => Some(path.clone()),
        Packages::Default if config_dir == Path::new(default) => Some(services.into()),
        Packages::Default | Packages::Nowhere => None,
    }
}

/// The directories of services, as far as they are there.
pub(super) fn directories(config_dir: &Path, agent: &AgentConfig) -> Vec<PathBuf> {
    let dirs = packages(config_dir, agent).into_iter();
    let dirs = dirs.chain([config_dir.join(SERVICES)]);
    dirs.filter(|dir| super::is_there(dir)).collect()
}

impl Layout {
    /// What is in these directories.
    ///
    /// # Errors
    /// The directory that cannot be listed, and why.
    pub(super) fn of(dirs: &[PathBuf]) -> Result<Self, (PathBuf, io::Error)> {
        let mut layout = Self {
            dirs: dirs.to_vec(),
            ..Self::default()
        };
        let mut empty = Vec::new();
        for dir in dirs {
            let files = super::service_files(dir).map_err(|error| (dir.clone(), error))?;
            for file in files {
                let Some(name) = file.file_name() else {
                    continue;
                };
                let masks_another = layout.knows(name);
                layout.forget(name);
                if leads_to_null(&file) || masks_another && is_empty(&file) {
                    layout.masked.insert(name.to_owned());
                } else if let Some((prefix, instance)) = linked_instance(&file) {
                    let links = layout.links.entry(prefix).or_default();
                    links.insert(instance, file);
                } else {
                    empty.extend(is_empty(&file).then(|| name.to_owned()));
                    layout.files.insert(name.to_owned(), file);
                }
            }
        }
        for name in empty {
            // One that the template's file may name.
            let of_template = stem(Path::new(&name)).and_then(|stem| stem.split_once('@'));
            let is_instance = of_template.is_some_and(|(prefix, instance)| {
                !instance.is_empty() && layout.files.contains_key(&file_name(&format!("{prefix}@")))
            });
            if is_instance {
                layout.forget(&name);
                layout.masked.insert(name);
            }
        }
        Ok(layout)
    }

    /// That of nothing but drop-ins.
    pub(super) fn within(dirs: Vec<PathBuf>) -> Self {
        Self {
            dirs,
            ..Self::default()
        }
    }

    /// The file of a service or a template; of a linked instance, that of its template.
    pub(super) fn find(&self, stem: &str) -> Option<&PathBuf> {
        let own = self.files.get(&file_name(stem));
        own.or_else(|| {
            let (prefix, instance) = stem.split_once('@')?;
            self.links.get(prefix)?.get(instance)?;
            self.files.get(&file_name(&format!("{prefix}@")))
        })
    }

    /// That of a file of its own.
    pub(super) fn with(mut self, file: &Path) -> Self {
        if let Some(name) = file.file_name() {
            self.files.insert(name.to_owned(), file.to_owned());
        }
        self
    }

    /// The files of services and templates, by name.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.values()
    }

    /// Whether there is such a file of a service or a template.
    pub(super) fn has(&self, stem: &str) -> bool {
        self.files.contains_key(&file_name(stem))
    }

    /// Whether there is to be no such service.
    pub(super) fn is_masked(&self, service: &str) -> bool {
        self.masked.contains(&file_name(service))
    }

    /// The instances of a template that links name, and the links.
    pub(super) fn linked(&self, prefix: &str) -> impl Iterator<Item = (&String, &PathBuf)> {
        self.links.get(prefix).into_iter().flatten()
    }

    /// Links to templates of another name, and the templates' stems.
    pub(super) fn misnamed(&self) -> Vec<(PathBuf, String)> {
        let links = self.files.values().filter(|file| {
            let found = fs::symlink_metadata(file);
            found.is_ok_and(|it| it.is_symlink())
        });
        let misnamed = links.filter_map(|link| {
            let target = fs::canonicalize(link).ok()?;
            let template = stem(&target).filter(|it| it.ends_with('@'))?;
            (stem(link) != Some(template)).then(|| (link.clone(), template.to_owned()))
        });
        misnamed.collect()
    }

    /// Links to templates that are not there.
    pub(super) fn orphans(&self) -> impl Iterator<Item = (&str, &PathBuf)> {
        let without = self.links.iter();
        let without = without.filter(|(prefix, _)| !self.has(&format!("{prefix}@")));
        without.flat_map(|(prefix, links)| links.values().map(move |link| (prefix.as_str(), link)))
    }

    /// The drop-ins of a file, in the order in which they are merged into it.
    pub(super) fn drop_ins(&self, stem: &str) -> Vec<PathBuf> {
        let mut found = BTreeMap::new();
        for dir in &self.dirs {
            let folder = dir.join(folder_name(stem));
            // One that is no directory is none.
            for file in super::service_files(&folder).unwrap_or_default() {
                let Some(name) = file.file_name() else {
                    continue;
                };
                if leads_to_null(&file) {
                    found.remove(name);
                } else {
                    found.insert(name.to_owned(), file);
                }
            }
        }
        found.into_values().collect()
    }

    /// The directories of drop-ins, and the stem of what each is for.
    pub(super) fn folders(&self) -> Vec<(PathBuf, String)> {
        let mut folders = Vec::new();
        for dir in &self.dirs {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                let stem = entry
                    .file_name()
                    .to_str()
                    .and_then(of_folder)
                    .map(str::to_owned);
                folders.extend(stem.filter(|_| path.is_dir()).map(|stem| (path, stem)));
            }
        }
        folders.sort();
        folders
    }

    fn knows(&self, name: &OsStr) -> bool {
        let is_link = |links: &BTreeMap<String, PathBuf>| {
            links.values().any(|link| link.file_name() == Some(name))
        };
        self.files.contains_key(name) || self.links.values().any(is_link)
    }

    fn forget(&mut self, name: &OsStr) {
        self.files.remove(name);
        self.masked.remove(name);
        for links in self.links.values_mut() {
            links.retain(|_, link| link.file_name() != Some(name));
        }
    }
}

/// The file of that stem, in the last of these directories that has one; `None` also if that masks others.
pub(super) fn find_in(dirs: &[PathBuf], stem: &str) -> Option<PathBuf> {
    let files = dirs.iter().rev().map(|dir| dir.join(file_name(stem)));
    let file = files.into_iter().find(|file| file.exists())?;
    (!leads_to_null(&file) && !is_empty(&file)).then_some(file)
}

/// The file into which a drop-in is merged, if a path is that of one.
pub(super) fn of_drop_in(path: &Path) -> Option<PathBuf> {
    let folder = path.parent()?;
    let stem = of_folder(folder.file_name()?.to_str()?)?;
    Some(folder.with_file_name(file_name(stem)))
}

fn file_name(stem: &str) -> OsString {
    format!("{stem}.toml").into()
}

fn folder_name(stem: &str) -> String {
    format!("{stem}.toml.d")
}

fn of_folder(name: &str) -> Option<&str> {
    name.strip_suffix(".toml.d").filter(|stem| !stem.is_empty())
}

fn leads_to_null(path: &Path) -> bool {
    let is_link = fs::symlink_metadata(path).is_ok_and(|it| it.is_symlink());
    is_link && fs::canonicalize(path).is_ok_and(|target| target == Path::new("/dev/null"))
}

fn is_empty(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0)
}

/// The template's prefix and the instance's name, if this is a link to the template of that name.
fn linked_instance(path: &Path) -> Option<(String, String)> {
    let (prefix, instance) = stem(path)?.split_once('@')?;
    if instance.is_empty() || !fs::symlink_metadata(path).ok()?.is_symlink() {
        return None;
    }
    let target = fs::canonicalize(path).ok()?;
    let is_template = target.file_name() == Some(&file_name(&format!("{prefix}@")));
    is_template.then(|| (prefix.to_owned(), instance.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::super::{Config, Invalid, Surroundings, load, load_file};
    use super::*;

    /// A config directory, and one of packages beside it.
    struct TestConfig(TempDir);

    impl TestConfig {
        /// Files below `config/services`, or below `packages` where they are called so.
        fn with(files: &[(&str, &str)]) -> Self {
            let place = Self(TempDir::new().unwrap());
            for dir in ["config/services", "packages"] {
                fs::create_dir_all(place.0.path().join(dir)).unwrap();
            }
            let packages = place.0.path().join("packages");
            place.write(
                "config/agent.toml",
                &format!("package_services = {packages:?}"),
            );
            for (name, text) in files {
                place.write(&place_of(name), text);
            }
            place
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn link(&self, name: &str, target: &str) {
            symlink(target, self.0.path().join(place_of(name))).unwrap();
        }

        fn remove(&self, name: &str) {
            fs::remove_file(self.0.path().join(place_of(name))).unwrap();
        }

        fn load(&self) -> Result<Config, Invalid> {
            load(&self.0.path().join("config"), &surroundings())
        }

        fn good(&self) -> Config {
            self.load().unwrap_or_else(|invalid| panic!("{invalid}"))
        }

        fn names(&self) -> String {
            let config = self.good();
            let names: Vec<&str> = config.services.keys().map(AsRef::as_ref).collect();
            names.join(" ")
        }

        /// All that is wrong, and what is warned of, by paths from here.
        fn said(&self) -> String {
            let (problems, warnings) = match self.load() {
                Ok(config) => (Vec::new(), config.warnings),
                Err(invalid) => (invalid.problems, invalid.warnings),
            };
            let lines = problems.iter().chain(&warnings);
            let lines: Vec<String> = lines.map(ToString::to_string).collect();
            lines
                .join("\n")
                .replace(&format!("{}/", self.0.path().display()), "")
        }
    }

    fn place_of(name: &str) -> String {
        match name.starts_with("packages/") {
            true => name.to_owned(),
            false => format!("config/services/{name}"),
        }
    }

    fn surroundings() -> Surroundings {
        Surroundings {
            environment: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
            uid: nix::unistd::geteuid().as_raw(),
            ..Surroundings::default()
        }
    }

    const TRUE: &str = "command = [\"/bin/true\"]\n";

    #[test]
    fn a_template_makes_its_instances_and_is_no_service() {
        let place = TestConfig::with(&[
            ("x@.toml", TRUE),
            ("web.toml", &format!("{TRUE}instances = 2")),
            ("db@.toml", &format!("{TRUE}instances = [\"b\", \"a-1\"]")),
            ("y@own.toml", TRUE),
        ]);
        assert_eq!(place.names(), "db@a-1 db@b web@1 web@2 y@own");
        place.link("x@one.toml", "x@.toml");
        place.link("db@c.toml", "db@.toml");
        assert_eq!(place.names(), "db@a-1 db@b db@c web@1 web@2 x@one y@own");
    }

    #[test]
    fn an_instances_name_is_in_all_strings() {
        let text = "command = [\"/bin/echo\", \"%i\", \"100%%\"]\nworking_directory = \"/\"\n\
            after = [\"db@%i\"]\nstdout = \"/tmp/%i.log\"\n[environment]\nNAME = \"x-%i\"\n";
        let place = TestConfig::with(&[
            ("x@.toml", &format!("instances = [\"a\"]\n{text}")),
            ("db@.toml", &format!("{TRUE}instances = [\"a\"]")),
            ("plain.toml", "command = [\"/bin/date\", \"+%i %Y\"]"),
        ]);
        let config = place.good();
        let spec = &config.services["x@a"];
        assert_eq!(spec.exec.arguments, ["/bin/echo", "a", "100%"]);
        assert_eq!(spec.exec.environment["NAME"], "x-a");
        assert!(spec.relations.after.contains("db@a"));
        // Elsewhere a percent sign is one.
        assert_eq!(config.services["plain"].exec.arguments[1], "+%i %Y");
    }

    #[test]
    fn what_is_wrong_with_a_template_is_told_once_with_its_line() {
        let place = TestConfig::with(&[(
            "x@.toml",
            "instances = 3\ncommand = [\"/bin/true\"]\nnice = 99\n",
        )]);
        let said = "config/services/x@.toml:3:8: nice: expected an integer from -20 to 19, found the integer 99";
        assert_eq!(place.said(), said);
        for (text, said) in [
            (
                "instances = -1",
                "x@.toml:1:13: instances: expected a number of instances",
            ),
            (
                "instances = [\"a\", \"a\"]",
                "x@.toml:1:19: instances[1]: instance \"a\" is listed twice",
            ),
            (
                "instances = [\"../a\"]",
                "x@.toml:1:14: instances[0]: expected the name of an instance",
            ),
            (
                "instances = 1\ncpu_max = \"150%\"",
                "x@.toml:2:11: cpu_max: expected %i",
            ),
            ("cpu_max = \"150%\"", "x@.toml:1:11: cpu_max: expected %i"),
            ("nice = 99", "x@.toml:1:8: nice: expected"),
            ("[service.web]", "x@.toml:1:2: service: unknown key"),
        ] {
            place.write("config/services/x@.toml", &format!("{text}\n"));
            let all = place.said();
            assert!(
                all.contains(&format!("config/services/{said}")),
                "{text}: {all}"
            );
        }
        let several = "[service.web]\ncommand = [\"/bin/true\"]\ninstances = 2\n";
        let place = TestConfig::with(&[("all.toml", several)]);
        assert!(
            place
                .said()
                .contains("all.toml:3:1: service.web.instances: expected a file")
        );
    }

    #[test]
    fn a_file_of_its_own_stands_in_for_an_instance_and_an_empty_one_masks_it() {
        let place = TestConfig::with(&[
            ("x@.toml", &format!("{TRUE}instances = 4")),
            ("x@2.toml", "command = [\"/bin/false\"]"),
            ("x@3.toml", ""),
        ]);
        place.link("x@4.toml", "/dev/null");
        assert_eq!(place.names(), "x@1 x@2");
        let program = &place.good().services["x@2"].exec.program;
        assert_eq!(program, Path::new("/bin/false"));
    }

    #[test]
    fn a_link_to_a_template_that_is_not_there_is_refused() {
        let place = TestConfig::with(&[("packages/x@.toml", TRUE)]);
        place.link("x@a.toml", "../../packages/x@.toml");
        assert_eq!(place.names(), "x@a");
        place.link("z.toml", "../../packages/x@.toml");
        let said = "config/services/z.toml: is a link to the template x@.toml; an instance of that is named \
            x@NAME.toml";
        assert_eq!(place.said(), said);
        place.remove("z.toml");
        place.link("x@.toml", "/dev/null");
        assert_eq!(
            place.said(),
            "config/services/x@a.toml: no template x@.toml is beside it"
        );
    }

    #[test]
    fn a_requirement_names_an_instance() {
        let place = TestConfig::with(&[
            ("db@.toml", &format!("{TRUE}instances = 2")),
            ("app.toml", &format!("{TRUE}requires = [\"db\"]")),
        ]);
        let said = "config/services/app.toml:2:1: requires: no service is named \"db\", which is a \
            template; expected one of its instances, such as db@1";
        assert!(
            place.said().contains("which is a template"),
            "{}",
            place.said()
        );
        assert!(place.said().contains("such as db@1"), "{said}");
    }

    #[test]
    fn a_file_of_the_config_stands_in_for_one_of_a_package() {
        let place = TestConfig::with(&[
            ("packages/a.toml", TRUE),
            ("packages/b.toml", TRUE),
            ("packages/c.toml", TRUE),
            ("packages/d.toml", TRUE),
            ("b.toml", "command = [\"/bin/false\"]"),
            ("c.toml", ""),
        ]);
        place.link("d.toml", "/dev/null");
        assert_eq!(place.names(), "a b");
        let config = place.good();
        assert_eq!(config.services["b"].exec.program, Path::new("/bin/false"));
        assert!(config.files["a"].ends_with("packages/a.toml"));
        // Without one to mask, an empty file is a mistake.
        place.remove("../../packages/c.toml");
        assert!(
            place
                .said()
                .contains("services/c.toml:1:1: command: is missing"),
            "{}",
            place.said()
        );
        place.write("config/agent.toml", "package_services = \"none\"");
        place.remove("c.toml");
        assert_eq!(place.names(), "b");
        place.write("config/agent.toml", "package_services = \"x\"");
        assert!(
            place
                .said()
                .contains("agent.toml:1:20: package_services: expected the absolute path")
        );
    }

    #[test]
    fn drop_ins_are_merged_key_by_key_in_the_order_of_their_names() {
        let place = TestConfig::with(&[
            (
                "packages/web.toml",
                "command = [\"/bin/true\", \"a\"]\nnice = 1\nafter = [\"x\"]\nready = { tcp = \"127.0.0.1:80\" }\nenvironment = { A = \"1\", B = \"1\" }\n",
            ),
            ("packages/web.toml.d/20-b.toml", "nice = 2\n"),
            (
                "packages/web.toml.d/10-a.toml",
                "nice = 9\nenvironment.B = \"2\"\n",
            ),
            (
                "web.toml.d/15-c.toml",
                "# the admin\nnice = 3\nafter = []\n[environment]\nC = \"3\"\n",
            ),
            ("web.toml.d/30-d.toml", "ready = { notify = true }\n"),
            ("web.toml.d/.hidden.toml", "nonsense"),
            ("web.toml.d/readme", "nonsense"),
        ]);
        let config = place.good();
        let spec = &config.services["web"];
        assert_eq!((spec.exec.nice, spec.relations.after.len()), (Some(2), 0));
        assert_eq!(spec.exec.ready, Some(crate::model::Ready::Notify));
        let environment = &spec.exec.environment;
        let of = |name: &str| environment[name].as_str();
        assert_eq!((of("A"), of("B"), of("C")), ("1", "2", "3"));
        let description = config
            .describe("web", &place.0.path().join("config"))
            .unwrap();
        assert_eq!(description.drop_ins.len(), 4);
        let setting = |key: &str| {
            let mut settings = description.settings.iter();
            settings.find(|setting| setting.key == key).unwrap()
        };
        let place_of = |key: &str| {
            let setting = setting(key);
            let file = Path::new(setting.file.as_ref().unwrap())
                .file_name()
                .unwrap();
            (file.to_str().unwrap().to_owned(), setting.line.unwrap())
        };
        assert_eq!(place_of("command"), ("web.toml".to_owned(), 1));
        assert_eq!(place_of("nice"), ("20-b.toml".to_owned(), 1));
        assert_eq!(place_of("after"), ("15-c.toml".to_owned(), 3));
        let lines = setting("environment").to_toml();
        let places: BTreeSet<(String, usize)> = lines
            .iter()
            .filter_map(|(_, place)| {
                let (file, line) = (*place)?;
                let file = Path::new(file).file_name()?.to_str()?;
                Some((file.to_owned(), line))
            })
            .collect();
        let expected = [("10-a.toml", 2), ("15-c.toml", 5), ("web.toml", 5)];
        assert_eq!(
            places,
            expected.map(|(file, line)| (file.to_owned(), line)).into()
        );
    }

    #[test]
    fn a_drop_in_of_the_config_stands_in_for_one_of_a_package() {
        let place = TestConfig::with(&[
            ("packages/web.toml", TRUE),
            ("packages/web.toml.d/a.toml", "nice = 1"),
            ("packages/web.toml.d/b.toml", "umask = \"0077\""),
            ("web.toml.d/a.toml", "nice = 2"),
        ]);
        place.link("web.toml.d/b.toml", "/dev/null");
        let exec = &place.good().services["web"].exec;
        assert_eq!((exec.nice, exec.umask), (Some(2), None));
    }

    #[test]
    fn what_is_wrong_with_a_drop_in_names_it() {
        for (text, said) in [
            (
                "\nnice = 99",
                "web.toml.d/x.toml:2:8: nice: expected an integer",
            ),
            (
                "nise = 1",
                "web.toml.d/x.toml:1:1: nise: unknown key; did you mean nice?",
            ),
            ("nice = ", "web.toml.d/x.toml:1:8: nice: not valid TOML"),
            (
                "nice = 1\nnice = 2",
                "web.toml.d/x.toml:2:1: nice: \"nice\" is defined twice",
            ),
            (
                "start_limit = { burst = 1 }",
                "web.toml.d/x.toml:1:15: start_limit.interval: is missing",
            ),
            (
                "requires = [\"db\"]",
                "web.toml.d/x.toml:1: requires: no service is named",
            ),
            (
                "start_timeout = \"1s\"",
                "web.toml.d/x.toml:1:17: start_timeout: it limits",
            ),
        ] {
            let place = TestConfig::with(&[("web.toml", TRUE), ("web.toml.d/x.toml", text)]);
            let all = place.said();
            assert!(
                all.contains(&format!("config/services/{said}")),
                "{text}: {all}"
            );
        }
        let place = TestConfig::with(&[
            ("web.toml", "nice = 99\n"),
            ("web.toml.d/x.toml", "command = [\"/bin/true\"]"),
        ]);
        assert!(
            place
                .said()
                .starts_with("config/services/web.toml:1:8: nice: ")
        );
        let place = TestConfig::with(&[("wep.toml.d/x.toml", "nice = 1")]);
        assert_eq!(
            place.said(),
            "config/services/wep.toml.d: is not read: there is no wep.toml for these drop-ins"
        );
    }

    #[test]
    fn drop_ins_that_are_not_read_are_warned_of() {
        let several = "[service.a]\ncommand = [\"/bin/true\"]\n";
        let place = TestConfig::with(&[
            ("all.toml", several),
            ("all.toml.d/x.toml", "[service.a]\nnice = 1"),
            ("a.toml.d/x.toml", "nice = 2"),
            ("web.toml", TRUE),
            ("web.toml.d/x.conf", "nice = 3"),
            ("x.toml", &format!("{TRUE}instances = 1")),
            ("x@1.toml.d/x.toml", "nice = 4"),
        ]);
        let config = place.good();
        let nice = |name: &str| config.services[name].exec.nice;
        assert_eq!(
            (nice("a"), nice("web"), nice("x@1")),
            (Some(1), None, Some(4))
        );
        let expected = [
            "config/services/a.toml.d: is not read: a is in all.toml, whose drop-ins are in all.toml.d, \
             in a table [service.a]",
            "config/services/web.toml.d/x.conf: is not read: the names of drop-ins end with .toml",
        ];
        assert_eq!(place.said(), expected.join("\n"));
    }

    #[test]
    fn an_instance_has_drop_ins_beside_those_of_its_template() {
        let place = TestConfig::with(&[
            ("x@.toml", &format!("{TRUE}instances = 2")),
            ("x@.toml.d/a.toml", "nice = 1\nenvironment.A = \"%i\""),
            ("x@2.toml.d/a.toml", "nice = 2\nenvironment.B = \"%i\""),
        ]);
        let config = place.good();
        let exec = |name: &str| &config.services[name].exec;
        assert_eq!((exec("x@1").nice, exec("x@2").nice), (Some(1), Some(2)));
        let environment = &exec("x@2").environment;
        assert_eq!(
            (environment["A"].as_str(), environment["B"].as_str()),
            ("2", "2")
        );
        place.write("config/services/x@2.toml.d/b.toml", "instances = 3");
        assert!(
            place
                .said()
                .contains("x@2.toml.d/b.toml:1:1: instances: expected only"),
            "{}",
            place.said()
        );
    }

    #[test]
    fn a_file_is_checked_with_its_drop_ins_and_a_drop_in_with_its_file() {
        let place = TestConfig::with(&[
            ("packages/web.toml", TRUE),
            ("web.toml.d/a.toml", "nice = 7"),
            ("x@.toml", &format!("{TRUE}instances = 2")),
        ]);
        place.link("x@a.toml", "x@.toml");
        let load = |name: &str| {
            let config = load_file(&place.0.path().join(name), &surroundings());
            config.unwrap_or_else(|invalid| panic!("{name}: {invalid}"))
        };
        for name in [
            "config/services/web.toml",
            "config/services/web.toml.d/a.toml",
        ] {
            assert_eq!(load(name).services["web"].exec.nice, Some(7), "{name}");
        }
        for name in ["config/services/x@.toml", "config/services/x@a.toml"] {
            let names: Vec<_> = load(name).services.into_keys().collect();
            assert_eq!(names, ["x@1", "x@2", "x@a"].map(Into::into), "{name}");
        }
    }
}
