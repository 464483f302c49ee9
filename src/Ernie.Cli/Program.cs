Console.WriteLine("ernie");
