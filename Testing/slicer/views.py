"""Pictures from Slicer's own slice and 3D views, off screen and without the desktop.

The views are those of the application: MRML displayable managers in a VTK render window. It needs
EGL (libegl1 and libgl1-mesa-dri on Debian); `available` tells.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

_NUMBERS = itertools.count()
MANAGERS_2D = ("vtkMRMLSegmentationsDisplayableManager2D", "vtkMRMLMarkupsDisplayableManager")
MANAGERS_3D = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
)


@functools.cache
def available() -> bool:
    """Whether this machine can render off screen."""
    window = vtk.vtkRenderWindow()
    return window.GetClassName() != "vtkXOpenGLRenderWindow" or bool(window.SupportsOpenGL())


class SliceView:
    """An axial slice view with a CT behind the segments and markups of the scene."""

    def __init__(self, application, volume_node, size: tuple[int, int]) -> None:
        """Args: application logic, CT, (width, height) in pixels."""
        self._application = application
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application)
        self.logic.SetMRMLScene(volume_node.GetScene())
        self.node = self.logic.AddSliceNode(f"Slice{next(_NUMBERS)}")  # a singleton by name
        application.GetSliceLogics().AddItem(self.logic)
        self.node.SetOrientationToAxial()
        self.node.SetDimensions(*size, 1)
        self.logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume_node.GetID())
        self.logic.FitSliceToAll(*size)
        self._window, renderer = _window(size)
        renderer.GetActiveCamera().ParallelProjectionOn()
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        mapper.SetInputConnection(self.logic.GetImageDataConnection())
        actor = vtk.vtkActor2D()
        actor.SetMapper(mapper)
        renderer.AddViewProp(actor)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        self._group = _managers(factory, application, MANAGERS_2D, renderer, self.node)

    def close(self) -> None:
        """Let go of the scene; before the scene is cleared."""
        self._group.SetMRMLDisplayableNode(None)
        self._application.GetSliceLogics().RemoveItem(self.logic)
        scene, composite = self.node.GetScene(), self.logic.GetSliceCompositeNode()
        self.logic.SetMRMLScene(None)
        for node in (self.node, composite):  # singletons: clearing the scene leaves them
            scene.RemoveNode(node)

    def picture(self) -> np.ndarray:
        """RGB uint8 (row, column, channel), the top row first."""
        self.logic.UpdatePipeline()
        return _grab(self._window)

    def pixel_of(self, ras) -> tuple[float, float]:
        """(row, column) in the picture of a point in the world."""
        xy_to_ras = np.array(
            [[self.node.GetXYToRAS().GetElement(i, j) for j in range(4)] for i in range(4)]
        )
        x, y, _, _ = np.linalg.solve(xy_to_ras, [*ras, 1.0])
        return self.node.GetDimensions()[1] - 1 - y, x


class ThreeDView:
    """A 3D view of the scene's segments."""

    def __init__(self, application, scene, size: tuple[int, int], background=(1.0, 1.0, 1.0)):
        """Args: application logic, scene, (width, height) in pixels, color of the background."""
        self.node = scene.AddNewNodeByClass("vtkMRMLViewNode", "View1")
        self.node.SetLayoutName("1")
        self.node.SetBoxVisible(False)
        self.node.SetAxisLabelsVisible(False)
        self.node.SetBackgroundColor(*background)
        self.node.SetBackgroundColor2(*background)
        self._window, self.renderer = _window(size)
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        self._group = _managers(factory, application, MANAGERS_3D, self.renderer, self.node)

    def picture(self) -> np.ndarray:
        """RGB uint8 (row, column, channel), the top row first."""
        return _grab(self._window)

    def close(self) -> None:
        """Let go of the scene; before the scene is cleared."""
        self._group.SetMRMLDisplayableNode(None)

    def look_from_front(self, zoom: float = 1.0) -> None:
        """Look at everything from the patient's front, the head up."""
        camera = self.renderer.GetActiveCamera()
        camera.SetFocalPoint(0, 0, 0)
        camera.SetPosition(0, 1, 0)
        camera.SetViewUp(0, 0, 1)
        self.renderer.ResetCamera()
        camera.Zoom(zoom)
        self.renderer.ResetCameraClippingRange()


def _window(size: tuple[int, int]):
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(0)  # with samples translucent surfaces vanish on a software renderer
    window.SetSize(*size)
    renderer = vtk.vtkRenderer()
    window.AddRenderer(renderer)
    interactor = vtk.vtkRenderWindowInteractor()
    interactor.SetRenderWindow(window)
    return window, renderer


def _managers(factory, application, names, renderer, view_node):
    scene = view_node.GetScene()
    for kind in ("vtkMRMLInteractionNode", "vtkMRMLSelectionNode"):  # the desktop makes them
        if scene.GetFirstNodeByClass(kind) is None:
            scene.AddNewNodeByClass(kind)
    factory.SetMRMLApplicationLogic(application)
    for name in names:
        if not factory.IsDisplayableManagerRegistered(name):
            factory.RegisterDisplayableManager(name)
    group = slicer.vtkMRMLDisplayableManagerGroup()
    group.SetRenderer(renderer)
    group.Initialize(factory, renderer)
    group.SetMRMLDisplayableNode(view_node)
    renderer.GetRenderWindow().GetInteractor().Initialize()
    return group


def _grab(window) -> np.ndarray:
    window.Render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.ReadFrontBufferOff()
    grabber.Update()
    image = grabber.GetOutput()
    width, height, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3]
