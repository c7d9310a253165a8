#!/usr/bin/env python3
"""A Geant4 simulation as a payload: light in a block of scintillator with a sensor on one side.

Each event is a flash of optical photons at a random place. They are refracted, reflected, scattered
and absorbed by Geant4's own optical processes; no cross-section data need be downloaded. A line for
every block of events goes to OUTPUT, a checksum at the end. What is to be computed is in
g4bench.conf in the current folder (or the file that is given as the argument).
"""

import hashlib
import os
import sys

from geant4_pybind import *

DEFAULTS = {
    "EVENTS": "1200",
    "PHOTONS": "2000",
    "BLOCK": "12",
    "SEED": "20240229",
    "OUTPUT": "g4bench.out",
}


def settings(path):
    found = dict(DEFAULTS)
    if os.path.exists(path):
        with open(path) as file:
            for line in file:
                key, equals, value = line.partition("#")[0].partition("=")
                if equals:
                    found[key.strip()] = value.strip()
    for key in DEFAULTS:
        found[key] = os.environ.get("G4BENCH_" + key, found[key])
    unknown = sorted(set(found) - set(DEFAULTS))
    if unknown:
        sys.exit(f"{path}: unknown: {', '.join(unknown)}")
    return found


def optical(material, index, absorption, scattering):
    table = G4MaterialPropertiesTable()

    def property(name, red, blue):
        energies = G4doubleVector([1.5 * eV, 6.2 * eV])
        table.AddProperty(name, energies, G4doubleVector([red, blue]))

    property("RINDEX", index, 1 + (index - 1) * 1.05)
    property("ABSLENGTH", absorption, absorption)
    property("RAYLEIGH", scattering, scattering / 4)
    material.SetMaterialPropertiesTable(table)
    return material


class Detector(G4VUserDetectorConstruction):
    def Construct(self):
        nist = G4NistManager.Instance()
        air = optical(nist.FindOrBuildMaterial("G4_AIR"), 1.0003, 100 * m, 1000 * m)
        block = optical(
            nist.FindOrBuildMaterial("G4_PLASTIC_SC_VINYLTOLUENE"), 1.58, 1.5 * m, 0.8 * m
        )
        glass = optical(nist.FindOrBuildMaterial("G4_Pyrex_Glass"), 1.47, 1 * mm, 1 * m)
        self.keep = []
        world = self.place("world", G4Box("world", 30 * cm, 30 * cm, 60 * cm), air, None, 0)
        self.place("block", G4Box("block", 10 * cm, 10 * cm, 40 * cm), block, world, 0)
        self.place("sensor", G4Box("sensor", 10 * cm, 10 * cm, 1 * cm), glass, world, 41 * cm)
        return world

    def place(self, name, solid, material, mother, z):
        logical = G4LogicalVolume(solid, material, name)
        inside = mother.GetLogicalVolume() if mother else None
        where = G4ThreeVector(0, 0, z)
        physical = G4PVPlacement(None, where, logical, name, inside, False, 0)
        self.keep += [solid, logical, physical]
        return physical


class Light(G4VPhysicsConstructor):
    """The particles. G4OpticalPhysics brings the processes of light; nothing else moves here."""

    def ConstructParticle(self):
        G4OpticalPhoton.OpticalPhotonDefinition()
        G4Gamma.GammaDefinition()
        G4Electron.ElectronDefinition()
        G4Positron.PositronDefinition()
        G4Proton.ProtonDefinition()

    def ConstructProcess(self):
        pass


class Physics(G4VModularPhysicsList):
    def __init__(self):
        super().__init__()
        self.SetVerboseLevel(0)
        self.RegisterPhysics(Light("light"))
        self.RegisterPhysics(G4OpticalPhysics())


class Flash(G4VUserPrimaryGeneratorAction):
    def __init__(self, photons):
        super().__init__()
        self.photons = photons
        self.gun = G4ParticleGun(1)
        self.gun.SetParticleDefinition(G4OpticalPhoton.OpticalPhotonDefinition())

    def GeneratePrimaries(self, event):
        spread = lambda width: (2 * G4UniformRand() - 1) * width
        where = G4ThreeVector(spread(9 * cm), spread(9 * cm), spread(39 * cm))
        self.gun.SetParticlePosition(where)
        for _ in range(self.photons):
            direction = G4RandomDirection()
            self.gun.SetParticleMomentumDirection(direction)
            self.gun.SetParticlePolarization(direction.orthogonal().unit())
            self.gun.SetParticleEnergy((2.2 + 0.9 * G4UniformRand()) * eV)
            self.gun.GeneratePrimaryVertex(event)


class Tally(G4UserTrackingAction):
    """Adds up what became of the photons of the event that is under way."""

    def __init__(self):
        super().__init__()
        self.clear()

    def clear(self):
        self.sums = [0, 0, 0, 0.0]

    def PostUserTrackingAction(self, track):
        volume = track.GetVolume()
        name = volume.GetName() if volume else "outside"
        sums = self.sums
        sums[0] += name == "sensor"
        sums[1] += name == "block"
        sums[2] += track.GetCurrentStepNumber()
        sums[3] += track.GetTrackLength() / mm


class PerEvent(G4UserEventAction):
    def __init__(self, tally, results):
        super().__init__()
        self.tally = tally
        self.results = results

    def BeginOfEventAction(self, event):
        self.tally.clear()

    def EndOfEventAction(self, event):
        self.results.append(self.tally.sums)


class Actions(G4VUserActionInitialization):
    def __init__(self, photons, results):
        super().__init__()
        self.photons = photons
        self.results = results

    def Build(self):
        tally = Tally()
        self.SetUserAction(Flash(self.photons))
        self.SetUserAction(tally)
        self.SetUserAction(PerEvent(tally, self.results))


def main():
    conf = settings(sys.argv[1] if len(sys.argv) > 1 else "g4bench.conf")
    events, photons, block, seed = (
        int(conf[key]) for key in ("EVENTS", "PHOTONS", "BLOCK", "SEED")
    )
    G4Random.setTheSeed(seed)
    results = []
    # The multi-threaded managers wait for ever for Python's lock.
    run = G4RunManagerFactory.CreateRunManager(G4RunManagerType.Serial)
    run.SetVerboseLevel(0)
    run.SetUserInitialization(Detector())
    run.SetUserInitialization(Physics())
    run.SetUserInitialization(Actions(photons, results))
    run.Initialize()
    digest = hashlib.sha256()
    with open(conf["OUTPUT"], "w") as output:

        def write(line):
            digest.update(line.encode())
            print(line, file=output, flush=True)

        for number, first in enumerate(range(0, events, block), 1):
            count = min(block, events - first)
            results.clear()
            run.BeamOn(count)
            seen, absorbed, steps, path = (sum(column) for column in zip(*results))
            write(
                f"step {number} events {first + count} photons {count * photons} seen {seen} "
                f"absorbed {absorbed} steps {steps} path {path:.9f} mm"
            )
        print("done", digest.hexdigest(), file=output, flush=True)


main()
