# Built from this checkout: nix-build -E '(import <nixpkgs> {}).callPackage ./packaging/nix/package.nix {}'
{
  lib,
  rustPlatform,
  installShellFiles,
}:

rustPlatform.buildRustPackage {
  pname = "respawn";
  version = (lib.importTOML ../../Cargo.toml).workspace.package.version;

  src = lib.cleanSource ../..;
  cargoLock.lockFile = ../../Cargo.lock;
  cargoBuildFlags = [
    "--package=monitor-user"
    "--bin=respawn"
  ];
  # They load kernel programs and kill processes.
  doCheck = false;

  nativeBuildInputs = [ installShellFiles ];
  postInstall = ''
    $out/bin/respawn man --dir $out/share/man/man8
    installShellCompletion --cmd respawn \
      --bash <($out/bin/respawn completions bash) \
      --zsh <($out/bin/respawn completions zsh) \
      --fish <($out/bin/respawn completions fish)
    install -Dm644 packaging/systemd/respawn.catalog $out/lib/systemd/catalog/respawn.catalog
  '';

  meta = {
    description = "Service supervisor that reports who killed a process";
    license = with lib.licenses; [
      mit
      asl20
    ];
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
    mainProgram = "respawn";
  };
}
