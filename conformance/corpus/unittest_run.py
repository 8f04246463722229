import unittest


class Test(unittest.TestCase):
    def test_passes(self):
        self.assertEqual(1, 1)

    def test_skipped(self):
        self.skipTest("why not")


suite = unittest.defaultTestLoader.loadTestsFromTestCase(Test)
result = unittest.TextTestRunner(stream=open("/dev/null", "w")).run(suite)
print(result.testsRun, result.skipped[0][1], result.wasSuccessful())
