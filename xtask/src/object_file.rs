//! What becomes of the linker's output before it is committed: no DWARF, no path of the machine.
//! It changes no instruction, no map, and no BTF.

use anyhow::{Context as _, Result, bail};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

/// The object without its DWARF sections, which only served the linker to make BTF from, and
/// which hold nine tenths of the bytes and the folder it was built in.
///
/// # Errors
/// When the bytes are no ELF object, or hold no BTF.
pub(crate) fn without_dwarf(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("read the object that was linked")?;
    let mut has_btf = false;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        has_btf |= name == b".BTF";
        section.delete |= name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    if !has_btf {
        bail!("the object that was linked has no BTF: the kernel programs could not be loaded");
    }
    builder.delete_orphans();
    // LLVM keeps the names of sections and symbols in one section; the writer wants two.
    if !builder
        .sections
        .iter()
        .any(|section| matches!(section.data, SectionData::SectionString))
    {
        let names = builder.sections.add();
        names.name = b".shstrtab".as_slice().into();
        names.sh_type = SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    builder.set_section_sizes();
    let mut stripped = Vec::new();
    builder
        .write(&mut stripped)
        .context("write the object without DWARF")?;
    Ok(stripped)
}

/// Which of these texts (paths of this machine) the object contains.
pub(crate) fn texts_within<'a>(object: &[u8], texts: &'a [String]) -> Vec<&'a str> {
    texts
        .iter()
        .map(String::as_str)
        .filter(|text| !text.is_empty())
        .filter(|text| {
            object
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{Endianness, elf};

    /// An ELF object with sections of these names, a byte each.
    fn object_with(names: &[&str]) -> Vec<u8> {
        let mut builder = Builder::new(Endianness::Little, true);
        builder.header.e_type = elf::ET_REL;
        builder.header.e_machine = elf::EM_BPF;
        for name in names.iter().chain(&[".shstrtab"]) {
            let section = builder.sections.add();
            section.name = name.as_bytes().into();
            section.sh_addralign = 1;
            if *name == ".shstrtab" {
                section.sh_type = elf::SHT_STRTAB;
                section.data = object::build::elf::SectionData::SectionString;
            } else {
                section.sh_type = elf::SHT_PROGBITS;
                section.data =
                    object::build::elf::SectionData::Data(name.as_bytes().to_vec().into());
            }
        }
        builder.set_section_sizes();
        let mut bytes = Vec::new();
        builder.write(&mut bytes).unwrap();
        bytes
    }

    fn names_in(object: &[u8]) -> Vec<String> {
        let builder = Builder::read(object).unwrap();
        builder
            .sections
            .iter()
            .map(|section| section.name.to_string())
            .collect()
    }

    #[test]
    fn drops_dwarf_and_keeps_the_rest() {
        let object = object_with(&["tp_btf/x", ".debug_info", ".debug_str", ".BTF", ".BTF.ext"]);
        let stripped = without_dwarf(&object).unwrap();
        assert_eq!(
            names_in(&stripped),
            ["tp_btf/x", ".BTF", ".BTF.ext", ".shstrtab"]
        );
    }

    #[test]
    fn refuses_an_object_without_btf_and_what_is_no_object() {
        assert!(without_dwarf(&object_with(&["tp_btf/x"])).is_err());
        assert!(without_dwarf(b"not an object").is_err());
    }

    #[test]
    fn finds_a_path_within_the_object() {
        let texts = [
            "/somewhere".to_string(),
            "/elsewhere".to_string(),
            String::new(),
        ];
        assert_eq!(
            texts_within(b"\0/elsewhere/main.rs\0", &texts),
            ["/elsewhere"]
        );
    }
}
